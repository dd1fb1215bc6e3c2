"""Jobs: the engine's records of running commands. The correlation id of the starting request finds them."""

import threading
from dataclasses import dataclass, field

from search import select
from wire import Date, NotFound, listing, new_id


@dataclass
class Job:
    description: str
    correlation_id: str
    status: str = "started"
    id: str = field(default_factory=new_id)
    start: Date = field(default_factory=Date.now)
    end: Date | None = None

    def finish(self, succeeded=True):
        self.end = Date.now()
        self.status = "finished" if succeeded else "failed"

    def show(self):
        return {
            "href": f"/ovirt-engine/api/jobs/{self.id}",
            "id": self.id,
            "description": self.description,
            "correlation_id": self.correlation_id,
            "status": self.status,
            "start_time": self.start,
            "end_time": self.end,
            "external": False,
            "auto_cleared": True,
        }


class Jobs:
    def __init__(self):
        self._jobs = []
        self._lock = threading.Lock()

    def start(self, description, correlation_id):
        job = Job(description, correlation_id or new_id()[:8])
        with self._lock:
            self._jobs.append(job)
        return job

    def list(self, query):
        def facts(job):
            return {"id": job.id, "correlation_id": job.correlation_id, "status": job.status}

        with self._lock:
            found = select(self._jobs, facts, query)
        return listing("job", [job.show() for job in found])

    def show(self, job_id):
        with self._lock:
            for job in self._jobs:
                if job.id == job_id:
                    return job.show()
        raise NotFound

    def dump(self):
        with self._lock:
            return [job.show() for job in self._jobs]
