"""transformers' architectures as tiny random models: the configuration shrunk by its own names."""

from __future__ import annotations

from typing import Any

import torch
from zoo_case import Case

_VOCABULARY = 99

# What a size is called differs from model to model; each is set where the configuration has it.
_TINY: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size"), _VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("d_embed", "word_embed_proj_dim", "projection_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "d_inner", "ffn_dim", "n_inner", "hidden_dim"), 48
    ),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok",), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_source_positions"), 128),
    **dict.fromkeys(("max_target_positions", "n_ctx"), 128),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), 0),
    **dict.fromkeys(("eos_token_id",), 98),
    **dict.fromkeys(("image_size",), 32),
    **dict.fromkeys(("num_mel_bins",), 16),
}

_DECODERS = """
    gpt2 gpt_neo gpt_neox gptj gpt_bigcode opt bloom falcon mpt codegen llama mistral mixtral
    qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 stablelm starcoder2 olmo
    olmo2 olmoe cohere granite granitemoe nemotron glm persimmon xglm biogpt mamba mamba2
    falcon_mamba rwkv ctrl openai-gpt recurrent_gemma smollm3 deepseek_v3 helium jetmoe
    ernie4_5
"""
_ENCODERS = """
    bert roberta xlm-roberta camembert albert electra distilbert mpnet deberta deberta-v2
    ernie convbert squeezebert mobilebert roformer nystromformer fnet funnel xlnet xlm
    longformer big_bird layoutlm splinter modernbert megatron-bert rembert
"""
_SEQ2SEQ = """
    t5 mt5 umt5 bart mbart pegasus marian blenderbot blenderbot-small m2m_100 plbart led
    prophetnet switch_transformers longt5 nllb-moe
"""
_VISION = """
    vit deit beit swin swinv2 convnext convnextv2 dinov2 resnet regnet mobilevit segformer
    poolformer pvt levit cvt vit_mae vit_msn yolos ijepa mobilenet_v2 efficientnet
"""
_AUDIO = """
    wav2vec2 hubert wavlm sew unispeech data2vec-audio
"""
# For sizes that a configuration computes and refuses to be told.
_ABSENT = object()
_OPTIONS: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": _ABSENT},
    "funnel": {"num_hidden_layers": _ABSENT, "architectures": ["FunnelModel"]},
    "xlnet": {"max_position_embeddings": _ABSENT},
    "prophetnet": {"num_hidden_layers": _ABSENT},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "swin": {"image_size": _ABSENT},
    "yolos": {"image_size": [64, 64]},
    "mpnet": {"max_position_embeddings": 130},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mixtral": {"sliding_window": None},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "gpt_neox": {"num_key_value_heads": 4},
    "modernbert": {"global_attn_every_n_layers": 2},
    "deepseek_v3": {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
}
_CONVOLUTIONS = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def names() -> list[str]:
    """Every architecture of the benchmark."""
    lists = " ".join((_DECODERS, _ENCODERS, _SEQ2SEQ, _VISION, _AUDIO))
    return [*lists.split(), "whisper", "clip"]


def _config(name: str) -> Any:
    from transformers import AutoConfig

    default = AutoConfig.for_model(name)
    tiny = {k: v for k, v in _TINY.items() if hasattr(default, k)}
    if name in _VISION.split():
        keep = ("image_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
        simple = isinstance(getattr(default, "num_attention_heads", None), int)
        keep = (*keep, "hidden_size") if simple else ("image_size",)
        tiny = {k: v for k, v in tiny.items() if k in keep}
        tiny |= {"image_size": 64} if hasattr(default, "image_size") else {}
    if name in _AUDIO.split():
        tiny |= {k: v for k, v in _CONVOLUTIONS.items() if hasattr(default, k)}
    chosen = tiny | _OPTIONS.get(name, {})
    return AutoConfig.for_model(name, **{k: v for k, v in chosen.items() if v is not _ABSENT})


def _tokens(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(1, 90, (batch, 16), generator=generator)


def build(name: str) -> Case:
    """A tiny random model of the architecture, and its inputs."""
    import transformers as hf

    if name == "clip":
        return _clip(hf)
    config = _config(name)
    if name in _DECODERS.split():
        model = hf.AutoModelForCausalLM.from_config(config)
        return Case(model, lambda b: {"input_ids": _tokens(b)}, generates=True)
    if name in _ENCODERS.split():
        model = hf.AutoModel.from_config(config)
        return Case(model, lambda b: {"input_ids": _tokens(b)})
    if name in _SEQ2SEQ.split():
        model = hf.AutoModelForSeq2SeqLM.from_config(config)
        return Case(
            model,
            lambda b: {"input_ids": _tokens(b), "decoder_input_ids": _tokens(b)[:, :5]},
        )
    if name in _VISION.split():
        size = getattr(config, "image_size", 64)
        size = size if isinstance(size, int) else size[0]
        model = hf.AutoModel.from_config(config)
        return Case(model, lambda b: {"pixel_values": torch.rand(b, 3, size, size)})
    if name == "whisper":
        model = hf.AutoModelForSpeechSeq2Seq.from_config(config)
        frames = 2 * config.max_source_positions
        return Case(
            model,
            lambda b: {
                "input_features": torch.rand(b, config.num_mel_bins, frames),
                "decoder_input_ids": _tokens(b)[:, :5],
            },
        )
    model = hf.AutoModel.from_config(config)
    return Case(model, lambda b: {"input_values": torch.rand(b, 2000)})


def _clip(hf: Any) -> Case:
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {**small, "vocab_size": _VOCABULARY, "eos_token_id": 98}
    vision = {**small, "image_size": 32, "patch_size": 8}
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return Case(
        hf.CLIPModel(config),
        lambda b: {"input_ids": _tokens(b), "pixel_values": torch.rand(b, 3, 32, 32)},
    )
