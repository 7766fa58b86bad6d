"""The batch scripts: what a task of an array does, from its start to its requeue.

Imports no torch.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .manifest import COMMANDS
from .profile import Profile, directives, inside, preamble, seconds

# One task's cells as several processes: when one ends the others do, and none waits for ever.
SRUN = "srun --export=ALL --kill-on-bad-exit=1 --wait=300"
RENDER_TIME = "00:10:00"
SAVED = "interrupted; what it had done is saved"
BY_HAND = "the command that submitted it goes on from there"
START = """\
# The first signal is passed on, once: a second one would end a cell before it has saved.
me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID restarts=${SLURM_RESTART_COUNT:-0}
told='' asked='' cells=()
say() { echo "nfbench: job $me on $SLURMD_NODENAME: $*"; }
tell() {
    [ -z "$told" ] || return
    told=1
    [ ${#cells[@]} -eq 0 ] || kill -USR1 "${cells[@]}" 2>/dev/null
}
# What SLURM has in mind: it starts the job `again` by itself, has `cut` it for good at its limit
# or for another one, lets it be, or someone has `cancelled` it, which must stay so.
fate() {
    local job
    job=$(scontrol show job -o "$me")
    if [[ $job =~ " Restarts="([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -gt "$restarts" ]; then
        echo again
    elif [[ $job =~ " JobState=COMPLETING " ]]; then
        [[ $job =~ " Reason=TimeLimit "|" PreemptTime="[0-9] ]] && echo cut || echo cancelled
    fi
}
requeue() {
    if [ "$restarts" -ge "$max_restarts" ]; then
        [ -n "$asked" ] || say "interrupted, and no restart is left; $by_hand"
        asked=never
    elif scontrol requeue "$me"; then
        say "interrupted; requeued"
        asked=requeued
    else
        say "interrupted, and SLURM does not requeue it; $by_hand"
    fi
}
trap tell USR1
# A cell may not save in the seconds that are left; it then goes on from its last checkpoint.
trap 'tell; [ "$(fate)" != cut ] || requeue' TERM
"""
RUN = """\
set +eu # whatever the lines above have set
say "start $((restarts + 1)) of at most $((max_restarts + 1))"
if [ "$restarts" -gt "$max_restarts" ]; then
    say "restarted too often; work remains, and $by_hand"
    exit 1
fi
mapfile -t -s $((SLURM_ARRAY_TASK_ID * pack)) -n "$pack" lines <"$folder/commands.txt"
[ ${#lines[@]} -gt 0 ] || { say "$folder/commands.txt has no line for it"; exit 1; }
cd "$NFBENCH_ROOT" || exit 1
sign() { echo "$folder/$((SLURM_ARRAY_TASK_ID * pack + $1 + 1)).sign"; }
for i in "${!lines[@]}"; do
    rm -f "$(sign "$i")"
    [ -z "$told" ] || continue
    eval "words=(${lines[i]})" # whose words nfbench has quoted
    NFBENCH_INTERRUPTED=$(sign "$i") start "${words[@]}" &
    cells+=($!)
done

# A trap ends `wait` before the cell has ended.
again='' code=0
[ ${#cells[@]} -eq ${#lines[@]} ] || again=1
for i in "${!cells[@]}"; do
    while true; do
        wait "${cells[i]}"
        rc=$?
        [ $rc -gt 128 ] && kill -0 "${cells[i]}" 2>/dev/null || break
    done
    if [ -e "$(sign "$i")" ] || { [ -n "$told" ] && [ $rc -gt 128 ]; }; then
        again=1
        rm -f "$(sign "$i")"
    elif [ $rc -ne 0 ]; then
        code=$rc
        say "exit code $rc of: ${lines[i]}"
    fi
done
[ -n "$again" ] || exit $code

case $(fate) in
again) [ -n "$asked" ] || say "interrupted; SLURM starts it again" ;;
cancelled) say "$saved" ;;
*) requeue ;;
esac
[ "$asked" != requeued ] || sleep 60 # SLURM ends it before
exit 1 # work remains
"""


def job_script(
    profile: Profile, name: str, n_tasks: int, folder: Path, root: Path, data: Path
) -> str:
    """The script of an array whose tasks run the lines of commands.txt in a folder, in order."""
    throttle = f"%{profile.throttle}" if profile.throttle else ""
    python = inside(profile, "-m")
    start = f"exec {SRUN} {python}" if profile.world_size > 1 else f"exec {python}"
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={name}",
            f"#SBATCH --array=0-{n_tasks - 1}{throttle}",
            *directives(profile),
            "",
            f"max_restarts={profile.max_restarts} by_hand={shlex.quote(BY_HAND)}",
            f"saved={shlex.quote(SAVED)}",
            START,
            *surroundings(profile, root, data),
            "",
            f"folder={shlex.quote(str(folder))} # {COMMANDS} has a line for each cell",
            f"pack={profile.pack}",
            f'start() {{ {start} "$@"; }}',
            RUN,
        ]
    )


def render_script(
    profile: Profile, name: str, commands: Sequence[Sequence[str]], root: Path, data: Path
) -> str:
    """The script of the job that comes after: some commands of nfbench, until one fails."""
    short = RENDER_TIME if profile.seconds > seconds(RENDER_TIME) else profile.time
    # Many sites take no job without a GPU into a partition that has some.
    gpus = min(profile.gpus, 1)
    one = replace(profile, nodes=1, tasks_per_node=1, pack=1, cpus=1, gpus=gpus)
    small = replace(one, time=short, signal_seconds=1)
    lines = [f"{inside(profile, '-m', *words)} || exit" for words in commands]
    head = ["#!/bin/bash", f"#SBATCH --job-name={name}", *directives(small), ""]
    place = ['cd "$NFBENCH_ROOT" || exit 1']
    return "\n".join([*head, *surroundings(small, root, data), *place, *lines, ""])


def surroundings(profile: Profile, root: Path, data: Path) -> list[str]:
    """The shell lines that come before the commands: where things are, then the profile's."""
    return [
        f"export NFBENCH_ROOT={shlex.quote(str(root))}",
        f"export NFBENCH_DATA={shlex.quote(str(data))}",
        "export PYTHONUNBUFFERED=1",
        *preamble(profile),
    ]
