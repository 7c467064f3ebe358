"""The shipped guests do what they say, built by every compiler there is, on the machine."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from emu import abi, data, toolchain
from emu.boot.elf import elf_image
from emu.machine import Machine
from emu.result import EXIT, TIME_LIMIT, TRIPLE_FAULT, Result
from emu.scenario import Config
from tests.compiled import COMPILERS, all_guests, compiler_called

CROWDED = Config(vcpus=2, tasks=("busy",))
PASS, NO_FEATURE = 0, 3
STEAL_GUESTS = [name for name, source in data.guest_sources().items() if "steal_offered(" in source.read_text()]


@pytest.fixture(scope="module", params=COMPILERS)
def elfs(request: pytest.FixtureRequest) -> dict[str, Path]:
    return all_guests(request.param).elfs


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


def test_hog_is_kept_waiting_half_of_the_time_and_registers_nothing(elfs: dict[str, Path]) -> None:
    for vcpu in _run(elfs["hog"], Config(vcpus=2, time_limit_ps=10**9)).vcpus:
        assert vcpu.stolen_ns == vcpu.ran_ns > 0
        assert (vcpu.msr, vcpu.area) == (0, None)


def test_idle_time_is_not_steal(elfs: dict[str, Path]) -> None:
    result = _run(elfs["idle"], Config(tasks=("busy",)))
    assert _passed(result)
    assert _text(result).count("wake-up") == 5
    assert result.vcpus[0].idle_ns > 9_000_000 > 20 * result.vcpus[0].stolen_ns


def _waits(result: Result) -> list[int]:
    return [int(number) for number in re.findall(r"waiting (\d+) ns \(steal\)", _text(result))]


def test_idle_waits_after_each_wake_up_beside_a_busy_task_and_never_alone(elfs: dict[str, Path]) -> None:
    beside = _run(elfs["idle"], Config(tasks=("busy",)))
    waits = _waits(beside)
    assert len(waits) == 5 and min(waits) > 10_000
    assert sum(waits) == beside.vcpus[0].stolen_ns
    assert _waits(_run(elfs["idle"])) == [0] * 5


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


# --- What every guest is linked with, and where it may not go ---


@pytest.fixture(params=COMPILERS)
def run_source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, int], Result]:
    """Builds a C source as 64-bit or 32-bit code and runs it; by each compiler."""
    chosen = compiler_called(request.param)

    def run(source: str, bits: int) -> Result:
        path = tmp_path / "own.c"
        path.write_text(f'#include "guest.h"\n{source}', encoding="utf-8")
        toolchain.build(path, tmp_path / "own.elf", bits=bits, compiler=chosen)
        return _run(tmp_path / "own.elf")

    return run


ACCESSES = ["*(volatile int *)0 = 5;", "put_dec(*(volatile int *)0);", "*(int *)0 = 5;", "((struct far *)0)->last = 5;"]


@pytest.mark.parametrize("access", ACCESSES)
def test_access_through_a_null_pointer_faults(run_source: Callable[[str, int], Result], access: str) -> None:
    far = "struct far { char gap[4000]; volatile int last; };\n"
    result = run_source(f'{far}int main(void) {{ put_text("here"); {access} return 0; }}', 64)
    assert (result.reason, _text(result)) == (TRIPLE_FAULT, "here")


def test_page_behind_the_null_page_can_be_read(run_source: Callable[[str, int], Result]) -> None:
    source = "int main(void) { return *(volatile uint8_t *)(RESERVED_GPA + SELECTOR_DATA); }"
    assert run_source(source, 64).reason == EXIT


MEMORY = """
static char a[40], b[40];
// Hides from the compiler what is known about a pointer: it must call.
static char *any(char *p) { __asm__("" : "+r"(p)); return p; }
static size_t some(size_t n) { __asm__("" : "+r"(n)); return n; }
static void show(const char *p) { for (int i = 0; i < 12; i++) put_char(p[i] ? p[i] : '.'); put_char('\\n'); }
static void sign(int n) { put_text(n < 0 ? "<" : n > 0 ? ">" : "="); }
int main(void)
{
    char large[1000] = {0};
    any(large)[some(999)] = 'x';
    memcpy(any(a), "abcdefghij", some(11)); show(a);
    memset(any(a) + 3, '-', some(2)); show(a);
    memmove(any(a) + 2, a, some(6)); show(a);
    memmove(any(a), a + 1, some(6)); show(a);
    memmove(any(a), a, some(0)); memset(any(a), '!', some(0)); memcpy(any(a), b, some(0)); show(a);
    put_dec(strlen(any(a))); put_dec(strlen(any(b))); put_dec(strlen(any(large)));
    sign(memcmp(any("abc"), any("abd"), some(3)));
    sign(memcmp(any("abc"), any("abd"), some(2)));
    sign(memcmp(any("\\xff"), any("a"), some(1)));
    sign(memcmp(any("abc"), any("xyz"), some(0)));
    return large[some(999)];
}
"""


@pytest.mark.parametrize("bits", [64, 32])
def test_memory_functions_do_what_c_says(run_source: Callable[[str, int], Result], bits: int) -> None:
    result = run_source(MEMORY, bits)
    assert _text(result).splitlines() == [
        "abcdefghij..", "abc--fghij..", "ababc--fij..", "babc---fij..", "babc---fij..", "1000<=>=",
    ]  # fmt: skip
    assert result.exit_code == ord("x")


EDGES = [1, 2, 3, 7, 10, 1000, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 10**15, 2**63 - 1, 2**63, 2**64 - 10, 2**64 - 1]
DIVISION = """
static volatile uint64_t number, divisor;
static void divide(uint64_t n, uint64_t d)
{
    number = n; divisor = d;
    put_hex(number / divisor); put_char(' '); put_hex(number % divisor); put_char(' ');
    put_hex((uint64_t)((int64_t)number / (int64_t)divisor)); put_char(' ');
    put_hex((uint64_t)((int64_t)number % (int64_t)divisor)); put_char('\\n');
}
"""


def _signed(number: int) -> int:
    return number - (number >> 63 << 64)


def _divided(number: int, divisor: int) -> str:
    n, d = _signed(number), _signed(divisor)
    quotient = abs(n) // abs(d) * (1 if (n < 0) == (d < 0) else -1)
    results = (number // divisor, number % divisor, quotient, n - quotient * d)
    return " ".join(f"{one % 2**64:#x}" for one in results)


def test_32_bit_code_divides_64_bit_numbers(run_source: Callable[[str, int], Result]) -> None:
    pairs = [(n, d) for n, d in itertools.product([0, *EDGES], EDGES) if (n, d) != (2**63, 2**64 - 1)]
    calls = "".join(f"divide({n}ull, {d}ull); " for n, d in pairs)
    result = run_source(f"{DIVISION}int main(void) {{ {calls} return 0; }}", 32)
    assert _text(result).splitlines() == [_divided(n, d) for n, d in pairs]


def test_32_bit_division_by_zero_raises_divide_error(run_source: Callable[[str, int], Result]) -> None:
    result = run_source(f"{DIVISION}int main(void) {{ divide(7, 0); return 0; }}", 32)
    assert (result.reason, _text(result)) == (TRIPLE_FAULT, "")
