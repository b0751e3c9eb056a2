"""The memory that is there, from the files of a made-up kernel."""

import pytest

from jaxalign.core import memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, whose process is in the control group /job/step."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 16 kB\nMemAvailable: {8 * 2**20} kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/job/step\n0::/job/step\n")
    return tmp_path / "cgroup"


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_a_machine_without_limits_has_what_is_free(machine):
    put(machine / "job", memory__max="max", memory__current=GIB)
    assert memory.available_memory() == 8 * GIB


def test_a_group_above_limits(machine):
    put(machine / "job", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"inactive_file {GIB}\n")
    put(machine / "job" / "step", memory__max=6 * GIB, memory__current=GIB)
    assert memory.available_memory() == 2 * GIB  # 1 GiB free, and 1 GiB of files that can be dropped


def test_an_old_group_limits(machine):
    limits = {"memory__limit_in_bytes": 2 * GIB, "memory__usage_in_bytes": GIB}
    put(machine / "memory" / "job" / "step", **limits)
    assert memory.available_memory() == GIB


def test_addresses_are_limited(machine):
    resource = pytest.importorskip("resource")
    (machine.parent / "proc" / "self" / "status").write_text(f"VmSize:\t{2**20} kB\n")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**46, before[1]))
    try:
        assert memory.available_memory() == min(8 * GIB, 2**46 - GIB)
        (machine.parent / "proc" / "self" / "status").write_text(f"VmSize:\t{2**36 - 2**20} kB\n")
        assert memory.available_memory() == GIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.available_memory() is None
