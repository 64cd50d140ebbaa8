"""A claim on archs is exact, a family, at-least, or a list of these; anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.arch import ARCHES, InvalidClaim, admits, claimed, number
from suites.meta.laws import LAW

archs = st.sampled_from(ARCHES)
claims = st.one_of(
    archs, archs.map(lambda arch: f">={arch}"), archs.map(lambda arch: arch[:-1] + "x")
)


@pytest.mark.parametrize(
    ("claim", "covered"),
    [
        ("sm90", ("sm90",)),
        ("sm10x", ("sm100", "sm103")),
        ("sm8x", ("sm80", "sm86", "sm89")),
        ("sm12x", ("sm120",)),
        (">=sm90", ("sm90", "sm100", "sm103", "sm120")),
        (">=sm80", ARCHES),
        ("sm80, sm120", ("sm80", "sm120")),
        ("sm8x,>=sm103", ("sm80", "sm86", "sm89", "sm103", "sm120")),
    ],
)
def test_a_claim_covers_these_archs(claim: str, covered: tuple[str, ...]) -> None:
    assert claimed(claim) == covered


def test_the_last_digit_is_the_minor_version() -> None:
    assert [number(arch) for arch in ("sm80", "sm89", "sm90", "sm103", "sm120")] == [
        (8, 0),
        (8, 9),
        (9, 0),
        (10, 3),
        (12, 0),
    ]


@given(archs, archs)
@LAW
def test_at_least_is_the_order_of_compute_capabilities(floor: str, arch: str) -> None:
    assert admits(f">={floor}", arch) == (number(arch) >= number(floor))


@given(archs, archs)
@LAW
def test_an_exact_claim_covers_itself_alone(claim: str, arch: str) -> None:
    assert admits(claim, arch) == (claim == arch)


@given(claims, claims, archs)
@LAW
def test_a_list_of_claims_covers_what_any_of_them_covers(one: str, two: str, arch: str) -> None:
    assert admits(f"{one}, {two}", arch) == (admits(one, arch) or admits(two, arch))


def test_an_unknown_arch_is_still_compared() -> None:
    assert not admits(">=sm80", "sm75")
    assert admits(">=sm80", "sm121")


@pytest.mark.parametrize(
    "claim",
    ["", "blackwell", "sm9", "sm90a", "SM90", ">sm80", "<=sm90", ">=sm10x", "sm90,", "sm 90"],
)
def test_what_is_no_claim_is_refused_by_its_name(claim: str) -> None:
    with pytest.raises(InvalidClaim) as error:
        claimed(claim)
    assert "sm80, sm86, sm89, sm90, sm100, sm103, sm120" in str(error.value)


@pytest.mark.parametrize("claim", ["sm75", "sm7x", ">=sm121"])
def test_a_claim_on_no_known_arch_is_refused(claim: str) -> None:
    with pytest.raises(InvalidClaim, match=rf"arch='{claim}' covers none of sm80"):
        claimed(claim)


def test_the_cpu_is_not_an_arch_that_a_kernel_claims() -> None:
    with pytest.raises(InvalidClaim, match="arch='cpu'"):
        admits(">=sm80", "cpu")
