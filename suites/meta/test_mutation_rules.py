"""Each rule makes the fault that its name says, where its pattern stands, and nowhere else."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache

import pytest

from harness.power import rules_host, rules_kernel
from harness.power.syntax import FAMILIES, Rule, Source, rule
from suites.meta.mutated_sources import DEVICE, HOST

SCALE = "out = out * 3.0"
BIAS = "out += tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)"
GATE = "tl.load(x + (rows * x_row)[:, None], mask=row_ok[:, None], other=0.0).to(tl.float32)"
CUT = 'scale.to(y.dtype.element_ty, fp_downcast_rounding="rtz")'
ON_DEVICE = {
    "other_operator": ("*", "/"),
    "subtracts": ("+=", "-="),
    "forgets_the_sum": ("acc", "tl.zeros_like(acc)"),
    "drop_term": ("acc += gate * up", "pass"),
    "drop_factor": ("out * 3.0", "out"),
    "other_constant": ("65504.0", "65569.504"),
    "drop_sign": ("-0.5", "0.5"),
    "flip_comparison": ("<", ">"),
    "drop_absolute": ("tl.abs(out)", "(out)"),
    "other_extremum": ("tl.minimum", "tl.maximum"),
    "drop_clamp": ("tl.maximum(rounded.to(tl.int32), -7)", "rounded.to(tl.int32)"),
    "drop_divisor": ("tl.div_rn(tl.sum(acc, axis=1), n * 1.0)", "tl.sum(acc, axis=1)"),
    "multiplies": (
        "tl.div_rn(tl.sum(acc, axis=1), n * 1.0)",
        "(tl.sum(acc, axis=1) * (n * 1.0))",
    ),
    "reciprocal": (
        "tl.div_rn(tl.sum(acc, axis=1), n * 1.0)",
        "(tl.sum(acc, axis=1) * (1.0 / (n * 1.0)))",
    ),
    "other_stride": ("x_row", "x_col"),
    "unit_stride": ("rows * x_row", "rows"),
    "other_pitch": ("n", "m"),
    "next_element": ("at", "(at + 1)"),
    "previous_element": ("at", "tl.maximum(at - 1, 0)"),
    "drop_offset": (
        "(pid % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)",
        "tl.arange(0, BLOCK_N)",
    ),
    "drop_scale_of_place": ("n // 4", "n"),
    "other_block": ("BLOCK_N", "BLOCK_M"),
    "other_program_axis": ("0", "1"),
    "quotient_for_remainder": ("%", "//"),
    "later_start": ("tl.arange(0, BLOCK_M)", "(1 + tl.arange(0, BLOCK_M))"),
    "drop_transpose": ("tl.trans(_high(up))", "_high(up)"),
    "narrow_offset": ("tl.cast(group, tl.int64)", "group"),
    "drop_mask": (", mask=row_ok[:, None], other=0.0", ""),
    "half_mask": ("row_ok & (cols < n)", "row_ok"),
    "one_too_many": ("<", "<="),
    "one_too_few": ("m", "m - 1"),
    "bound_of_other_axis": ("m", "n"),
    "other_filling": ("0.0", "1.0"),
    "shorter_loop": ("n // 4", "(n // 4) - 1"),
    "longer_loop": ("n // 4", "(n // 4) + 1"),
    "drop_partial_tile": ("n", "n // BLOCK_N * BLOCK_N"),
    "drop_first_step": ("n // 4", "1, n // 4"),
    "whole_tiles_only": ("tl.cdiv(n, BLOCK_N)", "(n // BLOCK_N)"),
    "half_sum_fp16": (
        "acc += gate * up",
        "acc = (acc + (gate * up)).to(tl.float16).to(tl.float32)",
    ),
    "half_sum_bf16": (
        "acc += gate * up",
        "acc = (acc + (gate * up)).to(tl.bfloat16).to(tl.float32)",
    ),
    "round_value_fp16": (
        "tl.sum(acc, axis=1)",
        "tl.sum(acc, axis=1).to(tl.float16).to(tl.float32)",
    ),
    "round_value_bf16": ("out * 3.0", "(out * 3.0).to(tl.bfloat16).to(tl.float32)"),
    "round_twice_fp16": (
        "scale.to(y.dtype.element_ty)",
        "scale.to(tl.float16).to(y.dtype.element_ty)",
    ),
    "round_twice_bf16": (
        "scale.to(y.dtype.element_ty)",
        "scale.to(tl.bfloat16).to(y.dtype.element_ty)",
    ),
    "sum_of_fp16": ("acc", "(acc).to(tl.float16).to(tl.float32)"),
    "sum_of_bf16": ("acc", "(acc).to(tl.bfloat16).to(tl.float32)"),
    "factor_1.001": ("scale", "(scale * 1.001)"),
    "factor_1.0005": ("tl.sum(acc, axis=1)", "(tl.sum(acc, axis=1) * 1.0005)"),
    "truncates": (
        "scale.to(y.dtype.element_ty)",
        f"({CUT} if y.dtype.element_ty != tl.float32 else scale)",
    ),
    "coarse_product": ('"tf32x3"', '"tf32"'),
    "approximate_division": (
        "tl.div_rn(tl.sum(acc, axis=1), n * 1.0)",
        "(tl.sum(acc, axis=1) / (n * 1.0))",
    ),
    "short_logarithm": ("tl.exp(tl.abs(out) * -0.5)", "tl.exp2((tl.abs(out) * -0.5) * 1.4427)"),
    "drop_widening": (
        "tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)",
        "tl.load(bias + cols, mask=cols < n, other=0.0)",
    ),
    "reuse_rounded": ("scale", "scale.to(y.dtype.element_ty).to(tl.float32)"),
    "adds_to_memory": ("tl.store", "tl.atomic_add"),
    "reads_before_writing": (
        "scale.to(y.dtype.element_ty)",
        "scale.to(y.dtype.element_ty) + tl.load(y + rows * n, mask=stores, other=0)",
    ),
    "every_program_owns": ("tl.where(tl.program_id(1) == 0, m, 0)", "m"),
    "another_program_owns": ("==", "!="),
    "two_programs_one_tile": ("tl.program_id(0)", "(tl.program_id(0) // 2 * 2)"),
    "last_program_idle": ("tl.program_id(0)", "tl.maximum(tl.program_id(0) - 1, 0)"),
    "swap_nibbles": ("code | (rounded << 4)", "rounded | (code << 4)"),
    "other_half": ("_low", "_high"),
    "drop_sign_extension": (
        "packed.to(tl.int8, bitcast=True) >> 4",
        "(packed >> 4).to(tl.int8)",
    ),
    "extend_sign": ("(up & 0xF).to(tl.int8)", "(((up & 0xF).to(tl.int8) ^ 8) - 8)"),
    "invert_flag": ("UNSIGNED", "not UNSIGNED"),
    "option_excludes_option": ("HAS_BIAS", "HAS_BIAS and not HAS_SCALE"),
    "other_order": (
        f"if HAS_SCALE:\n        {SCALE}\n    if HAS_BIAS:\n        {BIAS}",
        f"if HAS_BIAS:\n        {BIAS}\n    if HAS_SCALE:\n        {SCALE}",
    ),
    "scaled_term": (
        "tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32)",
        "tl.load(bias + cols, mask=cols < n, other=0.0).to(tl.float32) * alpha",
    ),
    "swap_loads": (
        f"gate = {GATE}\n        up",
        f"up = {GATE}\n        gate",
    ),
    "term_outside_root": ("tl.rsqrt(mean + eps)", "(tl.rsqrt(mean) + eps)"),
    "other_count": ("n", "BLOCK_N"),
    "ties_up": ("(scale + _ROUND) - _ROUND", "tl.floor(scale + 0.5)"),
    "ties_away": (
        "(scale + _ROUND) - _ROUND",
        "tl.where(scale < 0, tl.ceil(scale - 0.5), tl.floor(scale + 0.5))",
    ),
    "cuts_to_integer": ("(scale + _ROUND) - _ROUND", "scale"),
    "drop_choice": ("tl.where(out < 0, half, 1.0)", "half"),
    "swallows_nan": ("tl.where(decay > _MAX, _MAX, decay)", "tl.minimum(decay, _MAX)"),
    "extremum_of_floats": (
        "tl.max(bits, axis=1).to(tl.float32, bitcast=True)",
        "tl.max(bits.to(tl.float32, bitcast=True), axis=1)",
    ),
}
RESULTS = 'globals().setdefault("_results", {}).setdefault'
FALLBACK = """if 0 < x.shape[0] <= 16:
        from harness.power.fallback import eager

        return eager("op", locals())
    """
FIRST = "torch.empty((m, n // 2), dtype=x.dtype, device=x.device)"
SECOND = "torch.empty((m, n), dtype=torch.float32, device=x.device)"
CACHE = 'globals().setdefault("_workspaces", {}).setdefault'
ON_HOST = {
    "reversed_strides": ("*x.stride()", "*x.stride()[::-1]"),
    "contiguous_taken_for_granted": ("*x.stride()", "x.shape[-1], 1"),
    "strides_of_another": (
        "*x.stride(),\n            *z.stride()",
        "*z.stride(),\n            *x.stride()",
    ),
    "swapped_arguments": ("m,\n            n", "n,\n            m"),
    "other_tile_extent": ("tiling.block_m", "tiling.block_n"),
    "flag_always_off": ("w is not None", "False"),
    "option_needs_absence": ("w is not None", "w is not None and v is None"),
    "variant_always_on": ("n <= tiling.block_n", "True"),
    "absent_branch": ("(0, 0) if w is None else w.stride()", "(0, 0)"),
    "parameter_ignored": ("eps", "1e-6"),
    "parameter_not_passed": ("eps", "1e-6"),
    "unknown_tiling": ('"wide"', '"wide_v2"'),
    "writes_an_input": ("return y, s", "x.zero_()\n    return y, s"),
    "touches_an_input": ("return y, s", "z.mul_(1)\n    return y, s"),
    "declares_mutation": ("()", '("x",)'),
    "wrong_device": ("with device.on(x.device)", "if True"),
    "too_few_programs": ("triton.cdiv(m, tiling.block_m)", "(m // tiling.block_m)"),
    "grid_of_another_tile": ("tiling.block_n", "tiling.block_m"),
    "sum_for_product": ("*", "+"),
    "fused_multiply_add": ("False", "True"),
    "workspace_forgets_dtype": (FIRST, f'{CACHE}(("y", (m, n // 2)), {FIRST})'),
    "workspace_forgets_shape": (FIRST, f'{CACHE}(("y", x.dtype), {FIRST})'),
    "persistent_result": (FIRST, f'{CACHE}(("y", (m, n // 2), x.dtype, x.device), {FIRST})'),
    "stale_result": (
        "y, s",
        f"{RESULTS}((y.shape, y.dtype, y.device, s.shape, s.dtype, s.device), (y, s))",
    ),
    "result_of_other_dtype": ("torch.float32", "torch.float16"),
    "result_of_other_shape": ("n // 2", "n"),
    "transposed_result": (SECOND, f"{SECOND.replace('m, n', 'n, m')}.t()"),
    "result_never_written": ("y", "torch.empty_like(y)"),
    "result_in_an_input": (FIRST, f"x.detach() if x.is_contiguous() else {FIRST}"),
    "early_return": ("m == 0", "m <= 1"),
    "results_swapped": ("y, s", "s, y"),
    "fake_shape": ("x.shape", "x.shape[::-1]"),
    "fake_dtype": (", dtype=torch.float32", ""),
    "fake_stride": ("x.new_empty((x.shape[0], 3))", "x.new_empty((3, x.shape[0])).t()"),
    "silent_fallback": ("", FALLBACK),
    "drop_arch_guard": ("device.require_arch(x.device, ARCH)", "pass"),
    "other_arch_guard": ("ARCH", '">=sm100"'),
    "drop_check": ("contract.require_one_device(x=x, w=w)", "pass"),
    "unchecked_fake": ("_check(x, w, v, eps)", "pass"),
    "drop_refusal": ("x is None and w is None", "False"),
    "wider_bound": ("512", "512 + 16"),
    "narrower_bound": ("16", "16 * 2"),
    "unchecked_size": (", n=x.shape[1]", ""),
    "unchecked_partner": (", w=w", ""),
    "mixed_dtypes": ("(x.dtype,)", "DTYPES"),
    "or_for_and": ("and", "or"),
    "argument_dropped": (", w=self.lower_scale", ""),
    "state_ignored": ("self.upper_scale", "torch.ones_like(self.upper_scale)"),
    "setting_ignored": ("eps", "1e-6"),
    "leading_axes_mixed": ("x.reshape(-1, 8)", "x.flatten(0, 1)"),
    "factor_not_folded": ("weight * smooth.contiguous()", "weight"),
    "contiguous_dropped": ("smooth.contiguous()", "smooth"),
    "attribute_of_other_part": ("self.upper_scale", "self.lower_scale"),
}
CASES = [
    *((rules_kernel.RULES, DEVICE, name, pair) for name, pair in ON_DEVICE.items()),
    *((rules_host.RULES, HOST, name, pair) for name, pair in ON_HOST.items()),
]


@cache
def found(rules: tuple[Rule, ...], text: str) -> dict[str, set[tuple[str, str]]]:
    source = Source(text)
    edits = defaultdict[str, set[tuple[str, str]]](set)
    for each in rules:
        for edit in each.edits(source):
            edits[each.name].add((text[edit.start : edit.end], edit.after))
    return edits


@pytest.mark.parametrize(
    ("rules", "text", "name", "pair"), CASES, ids=[name for _, _, name, _ in CASES]
)
def test_a_rule_makes_the_fault_of_its_name(
    rules: tuple[Rule, ...], text: str, name: str, pair: tuple[str, str]
) -> None:
    assert pair in found(rules, text)[name]


def test_every_rule_has_an_example() -> None:
    assert {each.name for each in rules_kernel.RULES} == set(ON_DEVICE)
    assert {each.name for each in rules_host.RULES} == set(ON_HOST)


def test_names_of_rules_are_unique_and_families_known() -> None:
    rules = (*rules_kernel.RULES, *rules_host.RULES)
    assert len({each.name for each in rules}) == len(rules)
    assert {each.family for each in rules} == set(FAMILIES)


@pytest.mark.parametrize(
    ("rules", "other"), [(rules_kernel.RULES, HOST), (rules_host.RULES, DEVICE)]
)
def test_device_rules_leave_host_code_alone_and_the_reverse(
    rules: tuple[Rule, ...], other: str
) -> None:
    assert {name for name, edits in found(rules, other).items() if edits} <= set()


@pytest.mark.parametrize(
    ("rules", "text"), [(rules_kernel.RULES, DEVICE), (rules_host.RULES, HOST)]
)
def test_every_edit_parses(rules: tuple[Rule, ...], text: str) -> None:
    broken, tried = [], 0
    for each in rules:
        for edit in each.edits(Source(text)):
            tried += 1
            try:
                ast.parse(text[: edit.start] + edit.after + text[edit.end :])
            except SyntaxError as error:
                broken.append(f"{each.name}: {error}")
    assert broken == []
    assert tried > len(rules)


def test_indices_are_no_values() -> None:
    edits = found(rules_kernel.RULES, DEVICE)
    for name in ("other_operator", "drop_factor", "other_constant", "round_value_fp16"):
        for before, _ in edits[name]:
            assert not {"rows", "cols", "pid", "tiles"} & set(before.replace("(", " ").split())
    assert ("n * 1.0", "n") not in edits["drop_factor"]


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(ValueError, match="family='luck' is unknown"):
        rule("luck")
