"""A planted mutant is what a fresh process imports, under its real name; nothing else is new."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from harness.power.plant import AlreadyImported, serve

HEAD = """
    import inspect, sys
    from pathlib import Path
    from harness import registry
    from harness.power.mutation import mutations, written
    from harness.power.plant import AlreadyImported, serve
    from harness.power.targets import targets

    folder = Path(sys.argv[1])
    target = next(t for t in targets("kernels") if t.module == "kernels.activation.triton")
    made = mutations(target.kernel, target.module, target.source())

    def one(rule):
        return next(each for each in made if each.rule == rule)

    def plant(mutant):
        serve(mutant.module, mutant.apply(target.source()), folder)
        registry.load_all(("references", "kernels"))

    def difference():
        import torch
        from harness.emulation import emulate
        kernel = registry.kernel("silu_and_mul.triton").function
        x = torch.arange(-8, 8).to(torch.float32).reshape(1, 16)
        with emulate():
            actual = kernel(x)
        expected = torch.nn.functional.silu(x[:, :8]) * x[:, 8:]
        return float((actual - expected).abs().max())
"""


def child(body: str, folder: Path) -> str:
    code = dedent(HEAD) + dedent(body)
    words = [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_fault_shows_in_results_and_in_the_source_that_triton_compiles(tmp_path: Path) -> None:
    out = child(
        """
        plant(one("drop_absolute"))
        import torch
        import kernels
        from kernels.activation import triton as module
        function = registry.kernel("silu_and_mul.triton").function
        assert kernels.silu_and_mul is function is module.silu_and_mul
        assert module.__name__ == function.__module__ == "kernels.activation.triton"
        assert "half = tl.exp((gate) * -0.5)" in inspect.getsource(module)
        assert "tl.exp((gate)" in inspect.getsource(module._silu_and_mul_kernel.fn)
        assert torch.ops.kernel_parity.silu_and_mul_triton
        assert Path(module.__file__).parent == folder
        assert "rms_norm.triton" in {each.name for each in registry.kernels()}
        print(difference())
        """,
        tmp_path,
    )
    assert float(out) > 1e-3


def test_without_a_fault_the_kernel_is_the_real_one_and_stays_it(tmp_path: Path) -> None:
    """One process for both: a module that is imported already is refused."""
    out = child(
        """
        registry.load_all(("references", "kernels"))
        print(difference())
        try:
            plant(one("drop_absolute"))
        except AlreadyImported as error:
            print(error)
        assert not list(folder.iterdir())
        print(difference())
        """,
        tmp_path,
    )
    before, refused, after = out.splitlines()
    assert "module='kernels.activation.triton' is imported already" in refused
    assert float(before) == float(after) < 1e-5


def test_a_fault_that_breaks_the_import_says_so(tmp_path: Path) -> None:
    out = child(
        """
        anchor = 'ARCH: Final = ">=sm80"'
        where = target.kernel, target.module, target.source()
        says = {"family": "wrapper", "rule": "raises", "after": "raise OSError('planted')"}
        plant(written(*where, anchor=anchor, **says))
        print(*(f"{name}: {error!r}" for name, error in registry.load_errors().items()))
        """,
        tmp_path,
    )
    assert out == "kernels.activation.triton: OSError('planted')\n"


def test_the_silent_fallback_is_right_and_launches_nothing(tmp_path: Path) -> None:
    out = child(
        """
        from harness.launches import record_launches
        plant(one("silent_fallback"))
        with record_launches() as seen:
            print(difference(), len(seen))
        """,
        tmp_path,
    )
    difference, launches = out.split()
    assert float(difference) < 1e-5
    assert launches == "0"


def test_serving_an_imported_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AlreadyImported, match="module='pathlib' is imported already"):
        serve(Path.__module__.split(".", maxsplit=1)[0], "", tmp_path)


def test_two_sources_of_one_length_never_share_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    module = "planted_for_this_test"
    for source, value in (("VALUE = 1\n", 1), ("VALUE = 2\n", 2)):
        server = serve(module, source, tmp_path)
        os.utime(server.path, (1, 1))  # bytecode is current by its source's second and length
        try:
            assert value == importlib.import_module(module).VALUE
        finally:
            sys.meta_path.remove(server)
            del sys.modules[module]
    assert list(tmp_path.rglob("*.pyc"))
