"""Reports of compute-sanitizer's tools, as public logs have them, are read rightly."""

from __future__ import annotations

import pytest

from harness.sanitizer_report import Fault, Report, parse
from suites.meta.fake_sanitizer import CLEAN, FAULTY


@pytest.mark.parametrize("tool", CLEAN)
def test_a_clean_report_has_a_summary_and_nothing_else(tool: str) -> None:
    assert parse(CLEAN[tool]) == Report((), 0)


def test_no_summary_is_not_a_clean_one() -> None:
    assert parse("").errors is None
    assert parse("========= COMPUTE-SANITIZER\nRunning main()\n").errors is None


@pytest.mark.parametrize(
    ("tool", "errors", "faults"),
    [
        (
            "memcheck",
            3,
            [
                Fault(
                    "Invalid __global__ write of size 4 bytes",
                    "scale(const float *, float *, int)",
                    "scale.cu:9",
                    "by thread (64,0,0) in block (3,0,0)",
                    2,
                    times=2,
                )
            ],
        ),
        (
            "racecheck",
            1,
            [
                Fault(
                    "Race reported between Write access and Read access at sums.cu:55",
                    "sums(float *)",
                    "sums.cu:46",
                    "",
                    2,
                )
            ],
        ),
        (
            "initcheck",
            2,
            [
                Fault(
                    "Uninitialized __global__ memory read of size 2 bytes",
                    "sums(const __half *, float *)",
                    "/work/sums.cu:30",
                    "by thread (98,0,0) in block (194,0,0)",
                    2,
                ),
                Fault(
                    "Host API memory access error at host access to 0x7f7fcdc01200 of size 400 "
                    "bytes",
                    "",
                    "",
                    "",
                    7,
                ),
            ],
        ),
        (
            "synccheck",
            1,
            [
                Fault(
                    "Barrier error detected. Divergent thread(s) in block",
                    "sums_kernel",
                    "",
                    "by thread (128,0,0) in block (0,0,0)",
                    2,
                )
            ],
        ),
    ],
)
def test_a_fault_has_its_kernel_and_place(tool: str, errors: int, faults: list[Fault]) -> None:
    assert parse(FAULTY[tool]) == Report(tuple(faults), errors)


@pytest.mark.parametrize(
    ("at", "kernel", "place"),
    [
        ("0x1b8 in kernel(float *, float *)", "kernel(float *, float *)", ""),
        ("0x120 in unsafe.cu:17:oob_kernel(float*)", "oob_kernel(float*)", "unsafe.cu:17"),
        ("vector_add(float const *) in /input/kernel.cu:9", "vector_add(float const *)", ""),
        ("launch_tma_load+0xbb10 in b200_matmul.cu:98", "launch_tma_load", "b200_matmul.cu:98"),
        ("void (anonymous namespace)::k<(int)4>(int)+0x10", "", ""),
        ("something of another form", "something of another form", ""),
    ],
)
def test_every_form_of_a_place_is_read(at: str, kernel: str, place: str) -> None:
    text = f"========= Invalid __shared__ read of size 8 bytes\n=========     at {at}\n"
    (fault,) = parse(text).faults
    assert fault.kernel == (kernel or "void (anonymous namespace)::k<(int)4>(int)")
    assert fault.place == (place or ("/input/kernel.cu:9" if "vector_add" in at else ""))


def test_the_kernel_is_the_outermost_of_what_was_inlined() -> None:
    (fault,) = parse(
        "========= Barrier error detected. Invalid arguments.\n"
        "=========     at __syncwarp(unsigned int)+0xe0 in sm_30_intrinsics.hpp:110\n"
        "=========     by thread (0,0,0) in block (0,0,0)\n"
        "=========         Device Frame: broken(float *, unsigned long)+0xb0 in /input/k.cu:12\n"
        "========= ERROR SUMMARY: 17 errors\n"
    ).faults
    assert (fault.kernel, fault.place) == ("broken(float *, unsigned long)", "/input/k.cu:12")


def test_a_warning_is_no_error() -> None:
    report = parse(
        "========= Warning: Race reported between Read access at k(int *)+0x90 in p.cu:13\n"
        "=========     and Write access at k(int *)+0xa0 in p.cu:14 [2 hazards]\n"
        "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n"
    )
    assert (report.errors, report.warnings, report.wrong) == (0, 1, ())
    assert report.faults[0].warning


def test_errors_that_were_not_printed_are_counted_once() -> None:
    report = parse(
        "========= ERROR SUMMARY: 257 errors\n"
        "========= ERROR SUMMARY: 157 errors were not printed. Use --print-limit option\n"
    )
    assert report.errors == 257


def test_an_error_of_the_tool_itself_is_a_finding() -> None:
    report = parse(
        "========= Error: Target application terminated before first instrumented API call\n"
        "========= Tracking kernels launched by child processes requires --target-processes all\n"
    )
    assert report.errors is None
    assert [fault.head for fault in report.wrong] == [
        "Error: Target application terminated before first instrumented API call"
    ]


def test_what_the_program_prints_in_between_is_not_the_report() -> None:
    text = FAULTY["synccheck"].replace("=========     by", "    at nothing\n=========     by")
    (fault,) = parse(text).faults
    assert fault.kernel == "sums_kernel"
    assert str(fault) == (
        "Barrier error detected. Divergent thread(s) in block in sums_kernel, by thread (128,0,0) "
        "in block (0,0,0) (line 2 of the report)"
    )
