"""The committed sentences: every one distinct, and every pair's kind known.

``sentences.tsv`` was written for this project, a line each: a kind and one or two sentences. Pairs
are paraphrases, contradictions, related (same subject, another statement) or unrelated; ``single``
lines are what a tokenizer meets in the wild: one word, numbers, code, URLs, other scripts, emoji,
repetition, and paragraphs of up to 115 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("sentences.tsv")
KINDS: Final = ("paraphrase", "contradiction", "related", "unrelated")
SINGLE: Final = "single"


class InvalidSentences(ValueError):
    """A line that is neither a pair nor a single sentence, or a sentence that occurs twice."""


@dataclass(frozen=True)
class Corpus:
    """Sentences, and pairs of them as (kind, index, index)."""

    sentences: tuple[str, ...]
    pairs: tuple[tuple[str, int, int], ...]

    def every(self, step: int, *, start: int = 0) -> tuple[str, ...]:
        """Every ``step``-th sentence: a sample that has all kinds."""
        return self.sentences[start::step]


def load(source: Path = SOURCE) -> Corpus:
    """All sentences of ``source``; raises InvalidSentences."""
    return _corpus([line.split("\t") for line in source.read_text("utf-8").splitlines()])


def few(per_kind: int, *, longest: int = 40, source: Path = SOURCE) -> Corpus:
    """The first ``per_kind`` pairs of each kind, of at most ``longest`` characters a sentence."""
    rows = [line.split("\t") for line in source.read_text("utf-8").splitlines()]
    short = [row for row in rows if all(len(text) <= longest for text in row[1:])]
    return _corpus([row for kind in KINDS for row in [r for r in short if r[0] == kind][:per_kind]])


def _corpus(rows: list[list[str]]) -> Corpus:
    sentences: list[str] = []
    pairs: list[tuple[str, int, int]] = []
    for kind, *texts in rows:
        if (kind, len(texts)) not in {(SINGLE, 1), *((known, 2) for known in KINDS)}:
            msg = f"kind={kind!r} with {len(texts)} sentences; need {SINGLE!r}, 1 or {KINDS}, 2"
            raise InvalidSentences(msg)
        if repeated := set(texts) & set(sentences):
            msg = f"sentences {sorted(repeated)!r} occur twice; reword one of each"
            raise InvalidSentences(msg)
        if kind != SINGLE:
            pairs.append((kind, len(sentences), len(sentences) + 1))
        sentences += texts
    return Corpus(tuple(sentences), tuple(pairs))
