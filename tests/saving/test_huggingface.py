"""Transformers' models go to folders and come back analog, bit for bit, or say why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, clip_weights, load, noise_mode, program, save, to_digital
from analogize.errors import SavingError
from analogize.saving.huggingface import from_pretrained, save_pretrained

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

IDS = torch.randint(5, 90, (4, 12), generator=torch.Generator().manual_seed(0))
BERT = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 32}
LLAMA = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA |= {"intermediate_size": 32, "num_key_value_heads": 2, "max_position_embeddings": 32}


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)).eval()


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | more)).eval()


def rewritten(model: nn.Module) -> Any:
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    return analogize(model, "pcm_8bit", calibration=[batch])


def logits(model: Any, mode: Any = "off") -> Tensor:
    with torch.no_grad(), noise_mode(model, mode):
        out: Tensor = model(input_ids=IDS).logits
        return out


MAKERS = [bert, llama, lambda: llama(tie_word_embeddings=True), lambda: llama().to(torch.bfloat16)]


@pytest.mark.parametrize("make", MAKERS, ids=["bert", "llama", "tied", "bfloat16"])
@pytest.mark.parametrize("shards", ["50GB", "5KB"])
def test_a_folder_comes_back_bit_for_bit(tmp_path: Path, make: Any, shards: str) -> None:
    analog = rewritten(make())
    program(analog, 3)

    save_pretrained(analog, tmp_path, chip=True, max_shard_size=shards)
    again = from_pretrained(tmp_path)

    assert isinstance(again, type(make()))
    assert torch.equal(logits(again), logits(analog))
    assert torch.equal(logits(again, "programmed"), logits(analog, "programmed"))
    assert again.config.to_dict() == analog.config.to_dict() | {
        name: again.config.to_dict()[name] for name in ("_name_or_path",) if name in again.config
    }


FRESH = """
import sys, torch, transformers
from pathlib import Path
ids = torch.load("ids.pt")
if sys.argv[1] == "analog":
    from analogize import noise_mode
    from analogize.saving.huggingface import from_pretrained
    model = from_pretrained("folder")
    with torch.no_grad(), noise_mode(model, "off"):
        torch.save(model(input_ids=ids).logits, "out.pt")
else:
    for kind in (transformers.AutoModel, getattr(transformers, sys.argv[1])):
        try:
            kind.from_pretrained("folder")
        except ValueError as error:
            assert "this model is analog; load it by analogize.saving.huggingface" in str(error)
        else:
            raise SystemExit("it became digital in silence")
    assert "analogize" not in sys.modules
"""


@pytest.mark.parametrize("make", [bert, llama])
def test_a_fresh_process_gives_the_same_bits_or_refuses(tmp_path: Path, make: Any) -> None:
    """The model's own method, and transformers alone in a process that knows no analogize."""
    analog = rewritten(make())
    analog.save_pretrained(tmp_path / "folder")
    torch.save(IDS, tmp_path / "ids.pt")

    for what in ("analog", type(make()).__name__):
        command = [sys.executable, "-c", FRESH, what]
        subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    assert torch.equal(torch.load(tmp_path / "out.pt"), logits(analog))


def test_the_way_back_is_digital_for_transformers_too(tmp_path: Path) -> None:
    model = bert()

    digital: Any = to_digital(rewritten(model))
    digital.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path)

    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


def rewrite_base(model: Any) -> None:
    model.bert = rewritten(model.bert)


def rewrite_encoder(model: Any) -> None:
    states = torch.randn(2, 4, 16)
    model.bert.encoder = analogize(model.bert.encoder, "pcm_8bit", calibration=[states])


def rewrite_layers(model: Any) -> None:
    layer = model.bert.encoder.layer[0]
    layer.output.dense = analogize(layer.output.dense, "pcm_8bit", calibration=[torch.randn(8, 32)])
    model.classifier = analogize(model.classifier, "reram_8bit", calibration=[torch.randn(8, 16)])


SAVES: dict[str, Any] = {
    "the function": save_pretrained,
    "its own method": lambda model, folder: model.save_pretrained(folder),
    "with a state dict": lambda m, folder: m.save_pretrained(folder, state_dict=m.state_dict()),
    "in shards": lambda model, folder: model.save_pretrained(folder, max_shard_size="5KB"),
    "the Trainer": lambda model, folder: trained(model, folder / "run").save_model(folder),
}


@pytest.mark.filterwarnings("ignore:.*met nothing but zeros:UserWarning")
@pytest.mark.parametrize("rewrite", [rewrite_base, rewrite_encoder, rewrite_layers])
@pytest.mark.parametrize("way", SAVES)
def test_a_part_of_a_model_comes_back_in_its_place(tmp_path: Path, rewrite: Any, way: str) -> None:
    """The model is transformers' own; only what is inside knows that it is analog."""
    model = bert()
    rewrite(model)

    SAVES[way](model, tmp_path)
    again: Any = from_pretrained(tmp_path)

    assert torch.equal(logits(again), logits(model.eval()))
    with pytest.raises(ValueError, match="this model is analog"):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path)


LATER = """
import sys, torch
from torch import nn
from pathlib import Path
if sys.argv[1] == "pickled":
    part = torch.load("part.pt", weights_only=False)
else:
    from analogize import analogize
    part = analogize(nn.Linear(16, 2), "pcm_8bit", calibration=[torch.randn(8, 16)])
assert "transformers" not in sys.modules
import transformers
from analogize.errors import SavingError
from analogize.saving.huggingface import from_pretrained
model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
model.classifier = part
state = model.state_dict() if sys.argv[2] == "given" else None
try:
    model.save_pretrained("folder", state_dict=state)
except SavingError as error:
    assert state is None and "save again" in str(error), error
    model.save_pretrained("folder")
again = from_pretrained("folder")
assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))
try:
    transformers.BertForSequenceClassification.from_pretrained("folder")
except ValueError as error:
    assert "this model is analog" in str(error)
else:
    raise SystemExit("it became digital in silence")
"""
LATER = f"SIZES = {BERT}\n{LATER}"


@pytest.mark.parametrize("how", [("rewritten", "taken"), ("pickled", "given")])
def test_transformers_may_be_imported_after_the_rewriting(tmp_path: Path, how: Any) -> None:
    part = analogize(nn.Linear(16, 2), "pcm_8bit", calibration=[torch.randn(8, 16)])
    torch.save(part, tmp_path / "part.pt")

    command = [sys.executable, "-c", LATER, *how]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]


def test_the_hubs_mixin_refuses_what_it_would_read_as_digital(tmp_path: Path) -> None:
    """Its from_pretrained says nothing at all of entries that it does not know."""
    hub = pytest.importorskip("huggingface_hub")

    class Net(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 2)

    net = Net()
    net.save_pretrained(tmp_path / "digital")
    net.fc = analogize(net.fc, "pcm_8bit")  # type: ignore[assignment]

    with pytest.raises(SavingError, match=r"analogize\.save\(model, path\)"):
        net.save_pretrained(tmp_path / "analog")
    save(net, tmp_path / "net")
    assert isinstance(load(tmp_path / "net", Net), Net)


def test_an_adapter_of_transformers_is_saved_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    analog = rewritten(bert())
    config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    try:
        analog.add_adapter(config)
    except ValueError as versions:
        pytest.skip(str(versions))

    analog.save_pretrained(tmp_path)

    files = {file.name for file in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert "model.safetensors" not in files


class Wrapper(nn.Module):
    """Stands for sentence-transformers' models and pipelines of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = bert()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits


def test_a_model_inside_a_rewritten_one_does_not_save_itself_as_digital(tmp_path: Path) -> None:
    analog = rewritten(Wrapper())

    with pytest.raises(SavingError, match=r"inside of the model that was rewritten.*to_digital"):
        analog.encoder.save_pretrained(tmp_path)
    save(analog, tmp_path / "whole")
    assert isinstance(load(tmp_path / "whole", Wrapper), Wrapper)
    to_digital(analog).encoder.save_pretrained(tmp_path / "digital")  # type: ignore[operator]


@pytest.mark.parametrize("name", ["model.safetensors", "analog.safetensors", "config.json"])
def test_damaged_folders_are_refused_by_name(tmp_path: Path, name: str) -> None:
    rewritten(bert()).save_pretrained(tmp_path)
    whole = (tmp_path / name).read_bytes()

    for length in (0, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(SavingError, match=name):
            from_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SavingError, match=name):
        from_pretrained(tmp_path)


def test_other_classes_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    rewritten(bert()).save_pretrained(tmp_path / "analog")
    bert().save_pretrained(tmp_path / "digital")

    with pytest.raises(SavingError, match=r"holds a .*BertForSequenceClassification.*does not fit"):
        from_pretrained(tmp_path / "analog", transformers.BertForMaskedLM)
    with pytest.raises(SavingError, match="no folder of an analog model"):
        from_pretrained(tmp_path / "digital")
    with pytest.raises(SavingError, match="upload_folder"):
        rewritten(bert()).save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(SavingError, match="has no save_pretrained"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


class Examples(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.randint(5, 90, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": int(ids[0] > 50)}


class Clip(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        clip_weights(model)


def trained(model: Any, folder: Path, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        save_strategy="epoch",
        disable_tqdm=True,
    )
    data = Examples()
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, callbacks=[Clip()]
    )
    trainer.train(**more)
    return trainer


def test_the_trainer_trains_evaluates_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    analog = rewritten(bert())
    trainer = trained(analog, tmp_path / "one")

    assert trainer.evaluate()["eval_loss"] > 0
    assert torch.equal(
        logits(from_pretrained(tmp_path / "one/checkpoint-8")), logits(analog.eval())
    )
    # The second epoch again, from the first one's checkpoint, on a model rewritten anew.
    resumed = rewritten(bert())
    trained(resumed, tmp_path / "two", resume_from_checkpoint=str(tmp_path / "one/checkpoint-4"))
    assert torch.equal(logits(resumed.eval()), logits(analog))


def test_the_trainer_refuses_another_targets_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    trained(rewritten(bert()), tmp_path / "one")
    other = analogize(bert(), "reram_4bit", calibration=[{"input_ids": IDS}])

    with pytest.raises(SavingError, match="saved for another target"):
        trained(other, tmp_path / "two", resume_from_checkpoint=str(tmp_path / "one/checkpoint-4"))


def test_the_configuration_names_the_way(tmp_path: Path) -> None:
    rewritten(bert()).save_pretrained(tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())

    assert "analogize.saving.huggingface.from_pretrained" in config["transformers_weights"]
