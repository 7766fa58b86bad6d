"""What a partition allows against what a profile asks for. Imports no torch."""

import re
from collections.abc import Iterator, Sequence

from nfbench.settings import hint

from .commands import most_tasks, records
from .finding import Finding, fault, ok, warning
from .profile import Profile, seconds

GPU = re.compile(r"gpu(?::([\w.-]*[A-Za-z_.-][\w.-]*))?:(\d+)")
MEGABYTES = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
# A node that is POWERED_DOWN to save power is started for a job.
AWAY = re.compile(r"\b(DOWN|DRAIN|FAIL|MAINT|NOT_RESPONDING|FUTURE|UNKNOWN)")
Fields = dict[str, str]


def limits(profile: Profile) -> Iterator[Finding]:
    """The partition's state and limits, and whether its nodes are large enough.

    Raises:
        CommandError: SLURM does not answer.
    """
    known = {fields["PartitionName"]: fields for fields in records("partition")}
    default = [name for name, fields in known.items() if fields.get("Default") == "YES"]
    names = profile.partition.split(",") if profile.partition else default
    if not names:
        yield fault("partition", f"no default here; name one ({', '.join(known)})")
    nodes = records("node")
    for name in names:
        if name not in known:
            yield fault("partition", f"no partition {name!r}{hint(name, list(known), 'here')}")
            continue
        members = [n for n in nodes if name in n.get("Partitions", "").split(",")]
        yield of_partition(known[name], members)
        yield of_time(profile, known[name])
        yield from of_nodes(profile, known[name], members)
    yield of_arrays()


def of_partition(partition: Fields, members: Sequence[Fields]) -> Finding:
    """Whether jobs are started there."""
    name, state = partition["PartitionName"], partition.get("State", "?")
    if state != "UP":
        return fault("partition", f"{name} is {state}: jobs wait until its administrator opens it")
    return ok("partition", f"{name} is up, {len(members)} nodes")


def of_time(profile: Profile, partition: Fields) -> Finding:
    """The time limit, and the time that is left to save before it."""
    most = partition.get("MaxTime", "UNLIMITED")
    if re.fullmatch(r"[\d:-]+", most) and profile.seconds > seconds(most):
        name = partition["PartitionName"]
        return fault("time", f"{profile.time} is above the {most} of {name}; lower `time`")
    if profile.signal_seconds >= profile.seconds:
        lead = profile.signal_seconds
        message = f"a job of {profile.time} is asked to stop {lead} s before its end: at its start"
        return warning("time", f"{message}; lower `signal_seconds`")
    return ok("time", f"{profile.time} of at most {most.lower()}")


def of_nodes(profile: Profile, partition: Fields, members: Sequence[Fields]) -> Iterator[Finding]:
    """CPUs, memory and GPUs of the largest node, and how many nodes have all of them."""
    asked = {
        "cpus": float(profile.tasks_per_node * profile.cpus_per_task),
        "mem": megabytes(profile.mem) if profile.mem else 0.0,
        "gpus": float(profile.gpus),
    }
    there = [sizes(node, profile.gpu_type) for node in members]
    for key, amount in asked.items():
        most = max((size[key] for size in there), default=0.0)
        text = f"{amount:.0f} of at most {most:.0f} a node" + (", in MB" if key == "mem" else "")
        kind = f" of type {profile.gpu_type}" if key == "gpus" and profile.gpu_type else ""
        if amount > most:
            yield fault(key, f"asks for {text}{kind}; lower it, or take another partition")
        elif amount:
            yield ok(key, text + kind)
    fit = [all(size[key] >= asked[key] for key in asked) for size in there]
    ready = [f for f, node in zip(fit, members, strict=True) if f and not AWAY.search(state(node))]
    most_nodes = partition.get("MaxNodes", "UNLIMITED")
    text = f"{profile.nodes} of {sum(fit)} that are large enough"
    if most_nodes.isdigit() and int(most_nodes) < profile.nodes:
        yield fault("nodes", f"{profile.nodes} of at most {most_nodes} a job; lower `nodes`")
    elif sum(fit) < profile.nodes:
        yield fault("nodes", f"asks for {text}; lower `nodes` or what is asked of each")
    elif len(ready) < profile.nodes:
        message = f"{text}, of which only {len(ready)} are up; see `sinfo -R`"
        yield warning("nodes", message)
    else:
        yield ok("nodes", text)


def of_arrays() -> Finding:
    """How many jobs an array can have."""
    return ok("arrays", f"up to {most_tasks()} jobs each")


def state(node: Fields) -> str:
    """IDLE, ALLOCATED+DRAIN, DOWN*, ..."""
    return node.get("State", "UNKNOWN")


def sizes(node: Fields, gpu_type: str | None) -> dict[str, float]:
    """A node's CPUs, megabytes and GPUs, those of a type if there is one."""
    found = GPU.findall(node.get("Gres", ""))
    counts = [int(n) for kind, n in found if gpu_type in (None, kind)]
    return {
        "cpus": float(node.get("CPUTot", "0")),
        "mem": float(node.get("RealMemory", "0")),
        "gpus": float(sum(counts)),
    }


def megabytes(mem: str) -> float:
    """'8G' -> 8192."""
    return int(mem[:-1]) * MEGABYTES[mem[-1]]
