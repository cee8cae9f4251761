"""The CPU models that are emulated, and the files of /proc and /sys that a program on such a CPU would read.

QEMU 7.2 shows the guest the host's /proc/cpuinfo. A runtime that chooses its kernels by that file then chooses for
another CPU, so every core gets files of its own: what QEMU announces in AT_HWCAP, in Linux's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bits of AT_HWCAP and AT_HWCAP2 on arm64 (Linux, arch/arm64/include/uapi/asm/hwcap.h), as /proc/cpuinfo names them.
HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 "
    "dgh rng bti mte"
)
#: Pretended cores: one, so that no runtime starts threads that would only take turns.
CORES = 1


@dataclass(frozen=True, kw_only=True)
class Core:
    """One CPU model: QEMU's name of it, people's name, and its MIDR_EL1 in parts."""

    name: str
    title: str
    implementer: int
    part: int
    variant: int = 0
    revision: int = 0

    @property
    def midr(self) -> int:
        """The main ID register (Arm Architecture Reference Manual, MIDR_EL1); the architecture field is 0xf."""
        return self.implementer << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision


#: QEMU's own values (target/arm/cpu64.c).
KNOWN = {
    core.name: core
    for core in (
        Core(name="cortex-a72", title="Cortex-A72", implementer=0x41, part=0xD08, revision=3),
        Core(name="cortex-a76", title="Cortex-A76", implementer=0x41, part=0xD0B, variant=4, revision=1),
        Core(name="max", title="every feature that QEMU has", implementer=0, part=0x051),
    )
}


def features(hwcap: int, hwcap2: int) -> tuple[str, ...]:
    """Return the names of the bits that are set, in the kernel's order; unknown bits have no name."""
    pairs = ((HWCAP, hwcap), (HWCAP2, hwcap2))
    return tuple(name for names, bits in pairs for bit, name in enumerate(names.split()) if bits >> bit & 1)


def system_files(core: Core, found: tuple[str, ...], qemu: str) -> Mapping[str, str]:
    """Return the files below the guest's root by path: a CPU that says it is emulated, and no memory of the host's."""
    processor = "\n".join(
        (
            "processor\t: {index}",
            f"model name\t: {core.title} (emulated, QEMU {qemu})",
            "BogoMIPS\t: 100.00",
            f"Features\t: {' '.join(found)}",
            f"CPU implementer\t: 0x{core.implementer:02x}",
            "CPU architecture: 8",
            f"CPU variant\t: 0x{core.variant:x}",
            f"CPU part\t: 0x{core.part:03x}",
            f"CPU revision\t: {core.revision}",
            "",
        )
    )
    cpus = "0" if CORES == 1 else f"0-{CORES - 1}"
    files = {
        "proc/cpuinfo": "\n".join(processor.format(index=index) for index in range(CORES)) + "\n",
        "proc/meminfo": "",
        "proc/device-tree/model": f"QEMU {qemu} user mode, {core.name}",
        "etc/os-release": f'PRETTY_NAME="Debian, emulated by QEMU {qemu} user mode as {core.name}"\n',
        **{f"sys/devices/system/cpu/{name}": f"{cpus}\n" for name in ("online", "possible", "present")},
    }
    for index in range(CORES):
        registers = f"sys/devices/system/cpu/cpu{index}/regs/identification"
        files[f"{registers}/midr_el1"] = f"0x{core.midr:016x}\n"
    return files
