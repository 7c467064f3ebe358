"""What a guest prints arrives, once, in order, and within bounds."""

import pytest

from emu.devices.console import Console

CONSOLE, UART = 0xE9, 0x3F8


def test_both_ports_print_in_order_and_tell_the_sink_which() -> None:
    seen: list[tuple[int, int]] = []
    console = Console(lambda byte, port: seen.append((byte, port)))
    console.write(CONSOLE, 1, ord("a"))
    console.write(UART, 1, ord("b"))
    assert console.output == b"ab"
    assert seen == [(ord("a"), CONSOLE), (ord("b"), UART)]


@pytest.mark.parametrize("port", [CONSOLE, UART])
@pytest.mark.parametrize(("size", "value"), [(1, 0x41), (2, 0x4241), (4, 0x44434241)])
def test_wide_write_prints_its_low_byte(port: int, size: int, value: int) -> None:
    console = Console()
    console.write(port, size, value)
    assert console.output == b"A"


def test_console_port_reads_its_own_number() -> None:
    assert Console().read(CONSOLE, 1) == 0xE9


def test_uart_is_always_ready_to_send() -> None:
    assert Console().read(UART + 5, 1) == 0x60


def test_uart_line_status_cannot_be_overwritten() -> None:
    console = Console()
    console.write(UART + 5, 1, 0)
    assert console.read(UART + 5, 1) == 0x60


def test_uart_announces_no_interrupt_and_receives_nothing() -> None:
    console = Console()
    assert (console.read(UART + 2, 1), console.read(UART, 1)) == (1, 0)


@pytest.mark.parametrize("register", [1, 3, 4, 7])
def test_other_uart_registers_keep_what_is_written(register: int) -> None:
    console = Console()
    console.write(UART + register, 1, 0x5A)
    assert console.read(UART + register, 1) == 0x5A
    assert console.output == b""


def test_setting_the_baud_rate_prints_nothing() -> None:
    console = Console()
    console.write(UART + 3, 1, 0x83)
    console.write(UART, 1, 0x0C)
    console.write(UART + 1, 1, 0x01)
    assert (console.read(UART, 1), console.read(UART + 1, 1)) == (0x0C, 0x01)
    console.write(UART + 3, 1, 0x03)
    console.write(UART, 1, ord("x"))
    assert console.output == b"x"
    assert console.read(UART + 1, 1) == 0


def test_guest_that_prints_without_end_fills_the_cap_and_is_counted() -> None:
    seen: list[int] = []
    console = Console(lambda byte, port: seen.append(byte), cap=3)
    for byte in b"abcde":
        console.write(CONSOLE, 1, byte)
    assert (console.output, console.overflow, bytes(seen)) == (b"abc", 2, b"abc")
