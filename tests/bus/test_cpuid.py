"""CPUID: every bit has something behind it, and goes when that goes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import abi
from emu.bus.cpuid import ENGINE, REGISTERS, CpuidTable
from tests.effort import EFFORT


class Steal:
    features = (abi.KVM_FEATURE_STEAL_TIME,)
    msrs = (abi.MSR_KVM_STEAL_TIME,)


class Poll:
    features = (abi.KVM_FEATURE_POLL_CONTROL,)
    msrs = (abi.MSR_KVM_POLL_CONTROL,)


class Apic:
    cpuid_bits = ((abi.CPUID_FEATURES, "edx", abi.CPUID_1_EDX_APIC),)


LEAVES = (0, 1, 0x40000000, 0x40000001, 0x80000000, 0x80000001, 0x80000007)


def test_kvm_signature_is_what_real_kvm_answers() -> None:
    table = CpuidTable([Steal()])
    assert table.query(0x40000000) == (0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D)
    assert table.query(1)[2] >> 31 == 1


def test_feature_bit_is_set_exactly_when_its_device_is_attached() -> None:
    assert CpuidTable([Steal()]).query(0x40000001) == (1 << 5, 0, 0, 0)
    assert CpuidTable([Poll()]).query(0x40000001) == (1 << 12, 0, 0, 0)
    assert CpuidTable([Poll(), Steal()]).query(0x40000001) == (1 << 5 | 1 << 12, 0, 0, 0)


def test_without_kvm_interface_there_is_no_hypervisor() -> None:
    table = CpuidTable([Apic()])
    assert table.query(1)[2] >> 31 == 0
    assert table.query(0x40000000) == table.query(0x40000001) == (0, 0, 0, 0)


def test_hypercalls_alone_announce_kvm_without_features() -> None:
    table = CpuidTable([], hypercalls=True)
    assert table.query(0x40000000)[0] == 0x40000001
    assert table.query(0x40000001) == (0, 0, 0, 0)
    assert table.query(1)[2] >> 31 == 1


def test_device_bit_comes_and_goes_with_its_device() -> None:
    assert CpuidTable([Apic()]).query(1)[3] >> 9 & 1 == 1
    assert CpuidTable([]).query(1)[3] >> 9 & 1 == 0


@pytest.mark.parametrize("devices", [[], [Apic()], [Apic(), Steal(), Poll()]])
def test_every_set_bit_names_what_is_behind_it(devices: list[object]) -> None:
    table = CpuidTable(devices)
    names = {ENGINE, "kvm", *(type(device).__name__ for device in devices)}
    assert {bit.behind for bit in table.bits} <= names
    for leaf, registers in ((1, "ecx edx"), (0x40000001, "eax"), (0x80000001, "ecx edx"), (0x80000007, "edx")):
        for register in registers.split():
            behind = sum(bit.mask for bit in table.bits if (bit.leaf, bit.register) == (leaf, register))
            assert table.query(leaf)[REGISTERS.index(register)] == behind


def test_feature_without_its_msr_behind_it_is_refused() -> None:
    class Hollow:
        features = (abi.KVM_FEATURE_STEAL_TIME,)
        msrs = (abi.MSR_KVM_POLL_CONTROL,)

    with pytest.raises(ValueError, match="no MSR 0x4b564d03 behind it"):
        CpuidTable([Hollow()])


def test_bit_claimed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="claims a bit in use"):
        CpuidTable([Apic(), Apic()])


def test_vendor_leaves_spell_an_amd_cpu() -> None:
    table = CpuidTable([])
    for leaf, highest in ((0, 1), (0x80000000, 0x80000008)):
        eax, ebx, ecx, edx = table.query(leaf)
        assert eax == highest
        assert b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx)) == b"AuthenticAMD"


def test_brand_string_is_padded_over_its_three_leaves() -> None:
    table = CpuidTable([])
    words = [word for leaf in (0x80000002, 0x80000003, 0x80000004) for word in table.query(leaf)]
    assert b"".join(word.to_bytes(4, "little") for word in words) == b"emu teaching vCPU" + bytes(31)


def test_leaf_1_tells_apic_id_logical_cpus_and_cache_line() -> None:
    assert CpuidTable([], apic_id=63, logical_cpus=64).query(1)[1] == 63 << 24 | 64 << 16 | 8 << 8


def test_address_sizes_are_40_physical_and_48_linear_bits() -> None:
    assert CpuidTable([]).query(0x80000008) == (0x3028, 0, 0, 0)


def test_withheld_instructions_are_not_announced() -> None:
    ecx, edx = CpuidTable([]).query(1)[2:]
    monitor, xsave, avx, rdrand, svm = 1 << 3, 1 << 26, 1 << 28, 1 << 30, 1 << 2
    assert ecx & (monitor | xsave | avx | rdrand) == 0
    assert CpuidTable([]).query(0x80000001)[2] & svm == 0
    assert edx & (1 << 25 | 1 << 26) == 1 << 25 | 1 << 26  # SSE2 is part of long mode


@settings(derandomize=True, deadline=None, max_examples=80 * EFFORT, database=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_unknown_leaf_reads_zeros_whatever_the_subleaf(leaf: int, subleaf: int) -> None:
    table = CpuidTable([Steal(), Apic()])
    assert table.query(leaf, subleaf) == table.query(leaf)
    if leaf not in (*LEAVES, *range(0x80000002, 0x80000005), 0x80000008):
        assert table.query(leaf, subleaf) == (0, 0, 0, 0)
