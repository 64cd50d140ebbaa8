"""A contract says what it means, and a mistake in one is named with its place and the remedy."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

import pytest

import harness
from harness import registry
from harness.__main__ import BUNDLED
from harness.cells import Layer, inventory
from harness.claims import claimed
from harness.gate import contract
from harness.gate.contract import InvalidContract, parse
from harness.gate.policy import Policies, Policy, base
from harness.manifest import Asked
from suites.meta.gate_runs import ALL, KERNEL, NUMERIC, contract_of

TODAY: Final = dt.date(2026, 3, 2)
REASONS: Final = 'because = "no such machine"\nreference = "#7"\n'
ROOT: Final = Path(harness.__file__).parents[1]


def test_every_key_has_its_meaning() -> None:
    (rule,) = contract_of(
        '[[rules]]\npolicy = "retained"\nkernel = ["a.*", "b"]\narch = "sm9?"\nlayer = "numeric"\n'
        'dtype = "float16"\ncheck = "test_a"\nevidence = "device"\ncases = 7\n'
        f"{REASONS}expires = 2027-01-31"
    ).rules
    assert rule.pattern == contract.Pattern(
        kernel=("a.*", "b"),
        arch=("sm9?",),
        layer=("numeric",),
        dtype=("float16",),
        check=("test_a",),
    )
    assert (rule.gating, rule.evidence, rule.cases) == (False, "device", 7)
    assert (rule.because, rule.reference) == ("no such machine", "#7")
    assert (rule.expires, rule.where) == (dt.date(2027, 1, 31), "contract.toml:2")


MISTAKES: Final = {
    "key": (
        '[[rules]]\npolicy = "gating"\nkernle = "a"',
        r"contract\.toml:4: \[\[tool\.kernel-parity\.gate\.rules\]\] no\. 1: 'kernle' is.*'kernel'",
    ),
    "key of the second": (
        '[[rules]]\narch = "cpu"\n\n[[rules]]\narchs = "cpu"',
        r"contract\.toml:6: .* no\. 2: 'archs' is unknown; nearest: 'arch'",
    ),
    "policy": (
        '[[rules]]\npolicy = "gateing"',
        r"contract\.toml:3: .*policy='gateing' is unknown; nearest: 'gating'; known: gating, ret",
    ),
    "table": ('[[rule]]\npolicy = "gating"', r"'rule' is unknown; nearest: 'rules'; known: "),
    "no array": ("[rules]\ncases = 3".replace("[r", f"[{contract.TABLE}.r"), "no array of tables"),
    "layer": ('[[rules]]\nlayer = "numerics"', "layer='numerics' is unknown; nearest: 'numeric'"),
    "evidence": ('[[rules]]\nevidence = "devise"', "evidence='devise' is unknown; .*'device'"),
    "no evidence": ('[[rules]]\nevidence = "none"', "evidence='none' is unknown"),
    "cases": ("[[rules]]\ncases = 0", "cases=0 is not a whole number of at least 1"),
    "cases in words": ('[[rules]]\ncases = "7"', "cases='7' is not a whole number"),
    "truth for cases": ("[[rules]]\ncases = true", "cases=True is not a whole number"),
    "pattern": ("[[rules]]\nkernel = 7", "kernel=7 is neither a pattern nor a list of them"),
    "no pattern": ("[[rules]]\nkernel = []", r"kernel=\[\] is neither"),
    "no reason": ('[[rules]]\npolicy = "retained"\nreference = "#7"', "because='': what is retai"),
    "no reference": (
        '[[rules]]\npolicy = "retained"\nbecause = "no machine"',
        "reference='': what is retained needs words; give reference=",
    ),
    "no issue": (
        f"[[rules]]\n{REASONS}".replace("#7", "later"),
        "reference='later' names no issue; e.g. '#12', a URL",
    ),
    "no date": (
        f'[[rules]]\n{REASONS}expires = "2027-01-31"',
        "expires='2027-01-31' is no date; write 2027-01-31, no quotes",
    ),
    "failure without a kernel": (
        f"[[known-failures]]\n{REASONS}",
        "a known failure names its kernel; give kernel=",
    ),
    "failure without a reference": (
        '[[known-failures]]\nkernel = "a"\nbecause = "rounds twice"',
        "reference='': a known failure needs words",
    ),
    "exception without holes": (f'[[exceptions]]\nkernel = "a"\n{REASONS}', "holes is missing"),
    "exception of an unknown hole": (
        f'[[exceptions]]\nkernel = "a"\nholes = "skiped"\n{REASONS}',
        "'skiped' cannot be excused; nearest: 'skipped'",
    ),
    "exception of a failure": (
        f'[[exceptions]]\nkernel = "a"\nholes = ["failed"]\n{REASONS}',
        r"'failed' cannot be excused; .*; a failure is a \[\[known-failures\]\]",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidContract, match=message):
        contract_of(text)


ABSENT: Final = {
    "no tables": (
        "tool = 3",
        r"contract\.toml: tool=3 is no table; write \[tool\.kernel-",
    ),
    "no inner table": ("[tool]\nkernel-parity = 3", "kernel-parity=3 is no table"),
    "a number": ("[tool.kernel-parity]\ngate = 3", "gate=3 is no table"),
    "an array": (
        "[[tool.kernel-parity.gate]]",
        r"gate=\[\{\}\] is no table; .*one pair of bra",
    ),
    "nested": (f"a = {'[' * 9_999}", r"contract\.toml: no TOML: maximum recursion depth"),
    "no TOML": ("[tool", "contract.toml: no TOML: "),
    "no table": ("", r"there is no table \[tool\.kernel-parity\.gate\], the contract; see docs/"),
    "a name like it": ("[tool.kernel-parity.gates]", "nearest: 'gates'; known: gates"),
}


@pytest.mark.parametrize(("text", "message"), ABSENT.values(), ids=ABSENT)
def test_a_file_without_a_contract_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidContract, match=message):
        parse(text, where="contract.toml")


def test_a_missing_key_is_at_the_head_of_its_own_table() -> None:
    rule = f'\n\n\n[[{contract.TABLE}.rules]]\npolicy = "retained"\nreference = "#7"\n'
    text = f'{rule}{rule}because = "no such machine"'
    with pytest.raises(InvalidContract, match=r"contract\.toml:4: .* no\. 1: because='': "):
        parse(text, where="contract.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    path.write_bytes(f"# caf\xe9\n[{contract.TABLE}]\n".encode("latin-1"))
    with pytest.raises(InvalidContract, match=r"contract\.toml: no TOML, .*UTF-8: .*position 5"):
        contract.read(path)


def test_an_inline_table_is_named_by_its_place_in_the_array() -> None:
    text = f'[{contract.TABLE}]\nrules = [{{ arch = "cpu" }}, {{ acrh = "cpu" }}]'
    with pytest.raises(InvalidContract, match=r"contract\.toml: \S+\.rules\[1\]: .*'acrh' is unk"):
        parse(text, where="contract.toml")


UNMATCHED: Final = {
    "kernel": ('kernel = "duble.triton"', "kernel='duble.triton' matches nothing .*'double.tri"),
    "one of several": (f'kernel = ["{KERNEL}", "x"]', "kernel='x' matches nothing in the inven"),
    "arch": ('arch = "sm91"', "arch='sm91' matches nothing .*nearest: 'sm90'; known: cpu, sm100"),
    "layer": ('layer = "sanitize"', "layer='sanitize' matches nothing"),
    "dtype": ('dtype = "float61"', "dtype='float61' matches nothing .*nearest: 'float16'"),
    "check": ('check = "test_match"', "check='test_match' matches nothing"),
    "together": (
        'arch = "cpu"\nlayer = "compile"',
        r"no claimed cell has kernel=\['\*'\], arch=\['cpu'\], layer=\['compile'\] together",
    ),
}


@pytest.mark.parametrize(("text", "message"), UNMATCHED.values(), ids=UNMATCHED)
@pytest.mark.parametrize("table", ["rules", "known-failures"])
def test_a_pattern_that_matches_nothing_is_refused(table: str, text: str, message: str) -> None:
    if table != "rules":
        text = f"{REASONS}{text}" + ("" if "kernel" in text else '\nkernel = "*"')
    made = contract_of(f"[[{table}]]\n{text}")
    with pytest.raises(InvalidContract, match=rf"contract\.toml:2: .*{message}"):
        Policies(made, ALL, TODAY)


def policy(made: contract.Contract, asked: Asked, all_asked: tuple[Asked, ...] = ALL) -> Policy:
    cell = (asked.kernel, asked.arch, asked.layer)
    return Policies(made, all_asked, TODAY).of_cell(cell)(asked.dtype, base(asked.check))


def test_what_no_rule_is_about_gates_at_its_own_evidence() -> None:
    wanted = {"import_safety": "emulated", "compile": "compiled"}
    for asked in ALL:
        natural = "emulated" if asked.arch == "cpu" else "device"
        expected = Policy(gating=True, evidence=wanted.get(asked.layer, natural), cases=1)
        assert policy(contract.Contract(), asked) == expected


def test_each_key_is_decided_by_the_last_rule_that_has_it() -> None:
    made = contract_of(
        f'[[rules]]\ncheck = "{NUMERIC}"\ncases = 12',
        f'[[rules]]\npolicy = "retained"\narch = "sm90"\n{REASONS}',
        '[[rules]]\nlayer = "numeric"\ndtype = "float16"\ncases = 30',
    )
    half = next(each for each in ALL if (each.arch, each.dtype) == ("sm90", "float16"))
    found = policy(made, half)
    assert (found.gating, found.cases, found.reference) == (False, 30, "#7")
    found = policy(made, half._replace(arch="cpu", dtype="float32"))
    assert (found.gating, found.cases) == (True, 12)


NUMERIC_RULE: Final = '[[rules]]\nlayer = "numeric"\n'
RETAINED_RULE: Final = f'{NUMERIC_RULE}policy = "retained"\n{REASONS}'
PAST: Final = {
    "evidence": ('evidence = "device"', 'evidence = "emulated"'),
    "cases": ("cases = 48", "cases = 1"),
    "gating": (f'policy = "retained"\n{REASONS}', 'policy = "gating"'),
}


@pytest.mark.parametrize(("first", "second"), PAST.values(), ids=PAST)
def test_a_rule_that_is_past_decides_nothing(first: str, second: str) -> None:
    def decided(*keys: str) -> Policy:
        made = contract_of(*(f"{NUMERIC_RULE}{each}" for each in keys))
        return policy(made, next(each for each in ALL if each[1:3] == ("sm90", "numeric")))

    assert decided(first, f"{second}\nexpires = 2026-03-01") == decided(first)
    assert decided(first, f"{second}\nexpires = 2026-03-02") == decided(first, second)
    assert decided(first, second) != decided(first)


def test_what_a_rule_that_is_past_retained_gates_and_its_other_keys_are_gone() -> None:
    made = contract_of(f"{RETAINED_RULE}cases = 9\nexpires = 2026-03-01")
    found = policy(made, next(each for each in ALL if each.layer == "numeric"))
    assert (found.gating, found.cases, found.lapsed) == (True, 1, made.rules[0])


def test_the_projects_own_contract_is_of_the_bundled_kernels() -> None:
    registry.load_all(BUNDLED)
    kernels = [k for k in registry.kernels() if k.place.startswith(str(ROOT / "kernels"))]
    cells = inventory(kernels, registry.subjects())
    asked = {*claimed(cells)} | {
        Asked(cell.kernel, cell.arch, str(cell.layer), "", "") for cell in cells
    }
    made = contract.read(ROOT / "pyproject.toml")
    policies = Policies(made, asked, TODAY)
    for cell in cells:
        found = policies.of_cell((cell.kernel, cell.arch, str(cell.layer)))("", "")
        anywhere = cell.layer in {Layer.COMPILE, Layer.IMPORT_SAFETY} or cell.arch == "cpu"
        assert found.gating == (anywhere or cell.arch == "sm90"), cell
        assert found.evidence == cell.evidence
    assert set(made.rules[0].pattern.kernel) == {kernel.name for kernel in kernels}
