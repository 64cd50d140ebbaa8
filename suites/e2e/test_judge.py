"""The e2e judge says what is wrong, names the layer, and takes no impostor for an encoder."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from harness.compare import Comparison
from suites.e2e import judge as judging
from suites.e2e import sentences
from suites.e2e.judge import (
    Layer,
    measure,
    order_agreement,
    rank_agreement,
)
from suites.e2e.svdq import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = Comparison("budget", 4, worst=0.9)
BAD = Comparison("budget", 4, violations=1, worst=7.0, index=(0, 1))
PAIRS = tuple(("related", 2 * i, 2 * i + 1) for i in range(16))
judge = partial(judging.judge, limits=LIMITS)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embeddings() -> Tensor:
    """Sentences that lie in pairs, as real ones do."""
    subjects = normal(1, 16, 384).repeat_interleave(2, dim=0)
    return nn.functional.normalize(subjects + 0.7 * normal(2, 32, 384), dim=1)


def noisy(distance: float) -> Tensor:
    """Embeddings whose mean cosine to ``embeddings()`` is about ``1 - distance``."""
    cosine = 1 - distance
    noise = nn.functional.normalize(normal(3, 32, 384), dim=1)
    return embeddings() + math.sqrt(1 / cosine**2 - 1) * noise


def layer(name: str = "0.query", *, format_error: float = 0.1, good: bool = True) -> Layer:
    return Layer(name, GOOD if good else BAD, format_error, LIMITS.format_error)


def test_first_bad_layer_is_the_first_that_ran() -> None:
    layers = [layer("a"), layer("b", format_error=0.5), layer("c", good=False)]

    result = judge(layers, embeddings(), embeddings(), PAIRS)

    assert result.first_bad_layer == "b"
    assert [failure.partition(":")[0] for failure in result.failures()] == ["b", "c"]


def test_format_noise_passes() -> None:
    result = judge([layer()], noisy(0.032), embeddings(), PAIRS)

    assert result.passed, str(result)
    assert result.quality.mean_cosine == pytest.approx(0.968, abs=0.003)


def test_three_times_the_format_noise_fails() -> None:
    result = judge([layer()], noisy(0.1), embeddings(), PAIRS)

    assert result.first_bad_layer is None
    assert any(failure.startswith("mean cosine") for failure in result.failures())


def test_one_ruined_sentence_fails_though_the_mean_is_fine() -> None:
    actual = embeddings()
    actual[5] = -actual[5]

    result = judge([layer()], actual, embeddings(), PAIRS)

    assert result.quality.worst_sentence == 5
    assert any(failure.startswith("worst cosine") for failure in result.failures())


def test_a_common_shift_of_all_embeddings_fails() -> None:
    """Each cosine to the dense model's may be high while all sentences look alike."""
    shifted = embeddings() + 4 * embeddings().mean(dim=0)

    result = judge([layer()], shifted, embeddings(), PAIRS)

    assert not result.passed


IMPOSTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "constant": torch.ones_like,
    "negated": torch.neg,
    "NaN": lambda expected: expected * math.nan,
    "one NaN": lambda expected: expected.clone().index_fill_(0, torch.tensor([3]), math.nan),
    "next sentence": lambda expected: expected.roll(1, dims=0),
    "every second": lambda expected: expected[::2].repeat_interleave(2, dim=0),
    "noise": lambda expected: normal(8, *expected.shape),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_impostor_is_rejected(name: str) -> None:
    assert not judge([layer()], IMPOSTORS[name](embeddings()), embeddings(), PAIRS).passed


def test_nothing_replaced_is_no_pass() -> None:
    assert not judge([], embeddings(), embeddings(), PAIRS).passed


def test_figures_are_those_of_the_bounds_and_layers() -> None:
    figures = judge([layer(format_error=0.12)], embeddings(), embeddings(), PAIRS).figures

    assert figures["layers"] == 1
    assert figures["mean cosine"] == pytest.approx(1)
    assert figures["rank agreement"] == pytest.approx(1)
    assert figures["order agreement"] == 1
    assert figures["worst format error"] == 0.12


def test_rank_agreement() -> None:
    x = torch.tensor([0.1, 0.5, 0.2, 0.9])

    assert rank_agreement(x.exp(), x) == pytest.approx(1)
    assert rank_agreement(-x, x) == pytest.approx(-1)
    assert rank_agreement(torch.ones(4), x) == 0
    # d = (0, .5, .5, 0) of ranks (1, 2.5, 2.5, 4) and (1, 3, 2, 4): 9 / sqrt(90)
    assert rank_agreement(torch.tensor([0.0, 1, 1, 2]), x) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_agreement(torch.tensor([0.1, math.nan, 0.2, 0.3]), x))


def test_order_agreement() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])

    assert order_agreement(x, x) == 1
    assert order_agreement(-x, x) == 0
    assert order_agreement(torch.tensor([2.0, 1.0, 3.0]), x) == pytest.approx(2 / 3)
    assert order_agreement(x[:1], x[:1]) == 1


@pytest.mark.parametrize("shape", [(32, 383), (31, 384), (32,), (2, 384)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    expected = embeddings() if shape != (2, 384) else torch.ones(shape)
    with pytest.raises(ValueError, match=r"actual has shape"):
        measure(torch.ones(shape), expected)


def test_committed_sentences_have_all_kinds() -> None:
    corpus = sentences.load()

    assert len(corpus.sentences) == len(set(corpus.sentences)) == 280
    assert {kind for kind, _, _ in corpus.pairs} == set(sentences.KINDS)
    assert max(map(len, corpus.sentences)) > 500
    assert not all(text.isascii() for text in corpus.sentences)


def test_few_sentences_have_all_kinds() -> None:
    corpus = sentences.few(2)

    assert [kind for kind, _, _ in corpus.pairs] == [k for k in sentences.KINDS for _ in range(2)]
    assert all(corpus.sentences[first] for _, first, _ in corpus.pairs)
    assert set(corpus.sentences) <= set(sentences.load().sentences)


@pytest.mark.parametrize("line", ["related\tone", "single\tone\ttwo", "odd\tone\ttwo"])
def test_line_of_no_kind_is_refused(tmp_path: Path, line: str) -> None:
    source = tmp_path / "sentences.tsv"
    source.write_text(line, "utf-8")

    with pytest.raises(sentences.InvalidSentences, match="kind="):
        sentences.load(source)


def test_repeated_sentence_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "sentences.tsv"
    source.write_text("single\tone\nsingle\tone\n", "utf-8")

    with pytest.raises(sentences.InvalidSentences, match="reword"):
        sentences.load(source)
