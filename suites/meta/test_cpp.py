"""Edits of C++ reach code alone, and a pattern finds what it says."""

from __future__ import annotations

import pytest

from harness.power import cpp
from harness.power.cpp import Code
from harness.power.mutation import BrokenRule, Mutation, mutations
from harness.power.syntax import Edit
from harness.power.targets import CUDA

SMALL = """// ptx::block_barrier();
#include "a.cuh"  // ptx::block_barrier();
#define WAIT \\
  ptx::block_barrier();
/* ptx::block_barrier(); */
static_assert(16 * i == 8 * j, "ptx::block_barrier();");
void f() {
  const char* say = "ptx::block_barrier();";
  const char* raw = R"x(")ptx::block_barrier();)x";
  ptx :: block_barrier();  // the only one
  ptx::/* not all code */block_barrier();
  const char quote = '"';
}
"""


def of(text: str, rule: str) -> list[Mutation]:
    made = mutations("f.cuda", "user/f.cu", text)
    return [each for each in made if each.rule == rule]


def test_comments_strings_directives_and_assertions_stay() -> None:
    (only,) = of(SMALL, "barrier_removed")
    assert only.line == 10
    assert only.apply(SMALL) == SMALL.replace("  ptx :: block_barrier();", "  ;")
    assert of(SMALL, "other_tile_step") == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("// ptx", "/ ptx", "'// ptx::block_barrier\\(\\);' became '#include"),
        ("'\"'", "0", "10 comments, strings and directives became 9"),
        (";  // the", ";;  // no", "'// the only one' became '// no only one'"),
        ("void", "void /* */", "its tokens are those of the original"),
        ("void", "void ", "its tokens are those of the original"),
        ("f()", "f((", "is never closed|closes nothing"),
        ("say", "'", "begins no token of C"),
    ],
    ids=["comment", "string", "beside", "space", "blank", "bracket", "quote"],
)
def test_a_rule_that_makes_no_source_is_an_error(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str, words: str
) -> None:
    def broken(text: str) -> list[Edit]:
        start = text.index(before)
        return [Edit("index", "breaks", start, start + len(before), after)]

    monkeypatch.setattr("harness.power.mutation.RULES", {CUDA: (broken,)})
    with pytest.raises(BrokenRule, match=f"rule='breaks' .*({words})"):
        mutations("f.cuda", "user/f.cu", SMALL)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("f($a)", "f(x) + f(x + y) + f(2)", ["f(x)", "f(2)"]),
        ("f($$a, $$b)", "f(g(1, 2), x[i, j] + {3; }) + f(a) + f(a, b, c)",
         ["f(g(1, 2), x[i, j] + {3; })"]),
        ("{ $$$a }", "{ a; { b; } }", ["{ a; { b; } }", "{ b; }"]),
        ("$s = after($s)", "a = after(b); b = after(b)", ["b = after(b)"]),
        ("($$a + $$b - 1) / $$b", "(m + 2 * T - 1) / (2 * T); (m + T - 1) / T",
         ["(m + T - 1) / T"]),
        ("lane / 4", "plane / 4 + lane/4 + lane / 40", ["lane/4"]),
        ("a < b", "a <= b; a << b; a<b", ["a<b"]),
    ],
)  # fmt: skip
def test_a_pattern_finds_what_it_says(pattern: str, text: str, found: list[str]) -> None:
    code = Code(text)
    assert [text[slice(*match.span)] for match in code.find(pattern)] == found


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(ValueError, match="family='luck' is unknown"):
        cpp.rule("luck")
