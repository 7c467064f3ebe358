"""The shipped guests do what they say, built by every compiler there is, on the machine."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from emu import abi, data, toolchain
from emu import compiler as compilers
from emu.boot.elf import elf_image
from emu.machine import Machine
from emu.result import EXIT, TIME_LIMIT, Result
from emu.scenario import Config

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
COMPILERS += ["zig"] if importlib.util.find_spec("ziglang") else []
CROWDED = Config(vcpus=2, tasks=("busy",))
PASS, NO_FEATURE = 0, 3
STEAL_GUESTS = [name for name in data.guest_names() if name not in ("detect", "hello", "hog")]


@pytest.fixture(scope="module", params=COMPILERS)
def elfs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    chosen = next((c for c in compilers._candidates() if c.name == request.param and compilers._works(c)), None)
    if chosen is None:
        pytest.skip(f"no working {request.param} on this machine")
    built = {}
    for name, source in data.guest_sources().items():
        built[name] = tmp_path_factory.getbasetemp() / request.param / f"{name}.elf"
        toolchain.build(source, built[name], bits=toolchain.bits_of(source), compiler=chosen)
    return built


def _run(elf: Path, config: Config = Config()) -> Result:
    return Machine(elf_image(elf.read_bytes(), elf.name), config).run()


def _text(result: Result) -> str:
    return result.console.decode("ascii")


def _passed(result: Result) -> bool:
    return (result.reason, result.exit_code) == (EXIT, PASS)


def test_hello_greets_once_whatever_the_number_of_vcpus(elfs: dict[str, Path]) -> None:
    for vcpus in (1, 3):
        result = _run(elfs["hello"], Config(vcpus=vcpus))
        assert _passed(result) and _text(result) == "hello from the guest\n"


def test_detect_names_the_hypervisor_and_steal_time(elfs: dict[str, Path]) -> None:
    result = _run(elfs["detect"])
    assert _passed(result)
    assert "hypervisor: KVMKVMKVM\n" in _text(result)
    assert f"bit {abi.KVM_FEATURE_STEAL_TIME}: steal_time\n" in _text(result)


def test_detect_does_not_name_what_is_withheld(elfs: dict[str, Path]) -> None:
    assert "steal_time" not in _text(_run(elfs["detect"], Config(without=("steal-time",))))


@pytest.mark.parametrize("name", STEAL_GUESTS)
def test_missing_feature_ends_with_a_message_and_no_fault(elfs: dict[str, Path], name: str) -> None:
    result = _run(elfs[name], Config(vcpus=2, without=("steal-time",)))
    assert (result.reason, result.exit_code) == (EXIT, NO_FEATURE)
    assert _text(result).count("no KVM steal time") == 1


def test_register_reads_its_own_msr_back(elfs: dict[str, Path]) -> None:
    result = _run(elfs["register"])
    assert _passed(result)
    assert f"msr after:  {result.vcpus[0].msr:#x}\n" in _text(result)
    assert "version 2\n" in _text(result)


def test_last_line_of_the_clock_is_the_area_at_the_end(elfs: dict[str, Path]) -> None:
    result = _run(elfs["clock"], CROWDED)
    assert _passed(result)
    final = dict(re.findall(r"^vcpu(\d): final (steal \d+ ns, version \d+)$", _text(result), re.MULTILINE))
    for vcpu in result.vcpus:
        assert vcpu.area is not None
        assert final[str(vcpu.id)] == f"steal {vcpu.area.steal} ns, version {vcpu.area.version}"
        assert vcpu.area.version == 2 * vcpu.updates > 20


def test_every_line_of_the_clock_has_one_form(elfs: dict[str, Path]) -> None:
    for line in _text(_run(elfs["clock"], CROWDED)).splitlines():
        assert re.fullmatch(r"vcpu[01]: (final )?steal \d+ ns, version \d*[02468]", line)


def test_clock_alone_on_its_pcpu_sees_one_update(elfs: dict[str, Path]) -> None:
    assert _text(_run(elfs["clock"])).splitlines()[-1] == "vcpu0: final steal 0 ns, version 2"


def test_clock_ends_within_thirty_million_instructions(elfs: dict[str, Path]) -> None:
    assert _run(elfs["clock"], CROWDED).instructions < 30_000_000


def test_hog_is_ended_by_the_limit_alone(elfs: dict[str, Path]) -> None:
    result = _run(elfs["hog"], Config(vcpus=2, time_limit_ps=10**9))
    assert (result.reason, result.exit_code, result.console) == (TIME_LIMIT, None, b"")


def test_idle_time_is_not_steal(elfs: dict[str, Path]) -> None:
    result = _run(elfs["idle"], Config(tasks=("busy",)))
    assert _passed(result)
    assert _text(result).count("wake-up") == 5
    assert result.vcpus[0].idle_ns > 9_000_000 > 100 * result.vcpus[0].stolen_ns


def test_smp_loses_no_count(elfs: dict[str, Path]) -> None:
    result = _run(elfs["smp"], Config(vcpus=4, pcpus=2, tasks=("busy",)))
    assert _passed(result)
    assert _text(result).splitlines()[-1] == "counted 800000: PASS"
    assert len({vcpu.msr for vcpu in result.vcpus}) == 4


def test_bad_msr_survives_every_refusal(elfs: dict[str, Path]) -> None:
    result = _run(elfs["bad_msr"])
    lines = _text(result).splitlines()
    assert _passed(result) and lines[-1] == "PASS" and "FAIL" not in _text(result)
    assert sum("#GP" in line for line in lines) >= 3 * abi.KVM_STEAL_ALIGNMENT_BITS + 4


def test_memory_stays_untouched_after_shutdown(elfs: dict[str, Path]) -> None:
    for model in ("kvm", "other-cpu"):
        result = _run(elfs["shutdown"], CROWDED._replace(host_model=model))
        assert _passed(result) and _text(result).count("bytes changed since: 0: PASS") == 2


def _count(result: Result, what: str) -> int:
    return sum(int(number) for number in re.findall(rf"(\d+) {what}", _text(result)))


BRIEF = Config(vcpus=2, quantum_ps=10**7)
OTHER_CPU = BRIEF._replace(host_model="other-cpu")


def test_32_bit_reader_tears_under_kvm(elfs: dict[str, Path]) -> None:
    assert _count(_run(elfs["torn32"], BRIEF), "torn") > 0


def test_64_bit_reader_cannot_tear_under_kvm_and_says_so(elfs: dict[str, Path]) -> None:
    result = _run(elfs["torn"], BRIEF)
    assert (_count(result, "torn"), _count(result, "inside an update")) == (0, 0)
    assert "0 proves nothing" in _text(result)


def test_64_bit_reader_meets_half_done_updates_under_other_cpu(elfs: dict[str, Path]) -> None:
    result = _run(elfs["torn"], OTHER_CPU)
    assert _count(result, "inside an update;") > 0
    assert "fell inside an update" in _text(result)


def test_64_bit_reader_tears_where_the_host_stores_steal_in_halves(elfs: dict[str, Path]) -> None:
    assert _count(_run(elfs["torn"], OTHER_CPU._replace(steal_store="halves")), "torn") > 0
