"""A Slurm of our own on loopback: munged, slurmctld and two slurmd, in one folder and as this user.

Two nodes on one machine are two slurmd with names and ports of their own. They run in the foreground as
children of this process, which ends them by their process ids, so no unit, no file in /etc and no other Slurm
on this machine is touched. Tasks that outlive their slurmd are found by SLURM_CONF in their environment.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from pathlib import Path

from measure import Failed, run

NODES = ("node1", "node2")
CONFIGURATION = """\
ClusterName=copies
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
# Nothing listens beyond loopback.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# The facts about tasks that are over are asked for at the end.
MinJobAge=7200
SelectType=select/cons_tres
# The least loaded node is next, so both are used.
SelectTypeParameters=CR_CPU,CR_LLN
# The nodes have more processors than the machine: a task waits for the network most of the time.
SlurmdParameters=config_overrides
ReturnToService=2
# A task that is taken away has this long to end its transfer.
KillWait=120
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
# So many transfers run at a time, over all nodes.
Licenses=imageio:{licences}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def copies_at_work(place):
    """The process ids of the copies of images below `place`. Nobody may look at more of such a process than
    its arguments: it has taken its settings along, and kept the image.
    """
    found = []
    for one in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid, words = int(one.name), (one / "cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"--settings-fd"] and str(place).encode() in words[3]:
                found.append(pid)
    return found


class Cluster:
    def __init__(self, place, licences):
        self.dir, self.licences, self.servers = place / "slurm", licences, []
        self.conf = self.dir / "slurm.conf"

    def start(self):
        munge = self.dir / "munge"
        for one in (munge, self.dir / "state", *(self.dir / f"spool-{node}" for node in NODES)):
            one.mkdir(parents=True)
        # munged wants these to be writable by their owner alone.
        for one in (self.dir, munge):
            one.chmod(0o755)
        key = self.dir / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self.conf.write_text(
            CONFIGURATION.format(
                dir=self.dir,
                host=socket.gethostname().split(".")[0],
                user=pwd.getpwuid(os.getuid()).pw_name,
                ports=free_ports(3),
                licences=self.licences,
            )
        )
        words = [f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid"]
        words += [f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
        self._serve("munged", "--foreground", *words)
        self._wait("munged", 20, (munge / "socket").exists)
        self._serve("slurmctld", "-D", "-f", self.conf)
        for node in NODES:
            self._serve("slurmd", "-D", "-f", self.conf, "-N", node)
        idle = lambda: self.ask("sinfo", "-h", "-N", "-o", "%t", check=False).split() == ["idle"] * 2
        self._wait("Slurm", 60, idle)

    def _serve(self, *words):
        log = (self.dir / f"{words[0]}.out").open("ab")
        with log:
            self.servers.append(
                subprocess.Popen(
                    [str(word) for word in words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "SLURM_CONF": str(self.conf)},
                    start_new_session=True,
                )
            )

    def _wait(self, what, seconds, is_so):
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end or any(one.poll() is not None for one in self.servers):
                logs = [*sorted(self.dir.glob("*.log")), *sorted(self.dir.glob("*.out"))]
                tails = "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)
                raise Failed(f"{what} does not start:{tails}")
            time.sleep(0.1)

    def ask(self, *words, check=True, **variables):
        """Runs a command of Slurm's; returns its stdout."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf), **variables}
        try:
            return run(words, env=environment)
        except Failed:
            if check:
                raise
            return ""

    def tasks(self, job, state=None):
        """The tasks of an array that are not over, as (task, state, node)."""
        lines = self._queue(job, "%K %T %N").splitlines()
        all_ = [(*line.split(" "), "")[:3] for line in lines]
        return [(int(task), is_, node) for task, is_, node in all_ if state in (None, is_)]

    def _queue(self, job, format_):
        """Asks for the tasks of an array; Slurm forgets one some time after its end. A controller that is too
        busy to answer is asked again.
        """
        end = time.monotonic() + 60
        while True:
            try:
                return self.ask("squeue", "-h", "-r", "-j", job, "-o", format_)
            except Failed as failed:
                if "Invalid job id" in str(failed):
                    return ""
                if time.monotonic() > end:
                    raise
            time.sleep(0.5)

    def hasten(self, job):
        """Starts the tasks that were requeued at once: Slurm has them wait for two minutes."""
        waiting = self._queue(job, "%K %r").splitlines()
        for task in (line.split()[0] for line in waiting if line.endswith("BeginTime")):
            self.ask("scontrol", "update", f"jobid={job}_{task}", "starttime=now", check=False)

    def left(self):
        """The processes that have this Slurm in their environment, without those that serve it."""
        mark, found = f"SLURM_CONF={self.conf}".encode(), []
        for one in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(one.name)
                if mark in (one / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return [pid for pid in found if pid not in {one.pid for one in self.servers}]

    def stop(self):
        if not self.servers:
            return
        user = pwd.getpwuid(os.getuid()).pw_name
        with contextlib.suppress(Failed, OSError, subprocess.SubprocessError):
            self.ask("scancel", "--full", "--signal=KILL", f"--user={user}", check=False)
        for pid in self.left() + copies_at_work(self.dir.parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The nodes end first: slurmctld and munged answer them until then.
        for one in reversed(self.servers):
            one.terminate()
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait(10)
        self.servers = []
