"""One system of `benchmarks/itn.py` in a process of its own: reads a job, measures, writes the answers. No import of the project but `itn`.

    PYTHON benchmarks/itn_worker.py JOB.json ANSWER.json

Runs under the interpreter of the system's own environment (Python >= 3.10, standard library only), on one CPU.
"""


def resident() -> int:
    """Resident bytes of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


BARE = resident()  # before any import: what the interpreter itself takes

import sys  # noqa: E402

del sys.path[0]  # this folder: its itn.py is not the package

import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

FIRST = "call me at nine forty"  # ends the load: what is read at the first use is part of it


class Ours:
    """The `itn` package of this clone."""

    def __init__(self, job):
        sys.path.insert(0, job["root"])
        from itn import Normalizer

        self.make, self.profile, self.root = Normalizer, job["profile"], Path(job["root"])

    def load(self):
        self.normalizer = self.make(self.profile)
        self.normalize(FIRST)

    def normalize(self, text):
        return self.normalizer.normalize(text).text

    def given(self, category, spoken):
        """The category's grammar on the whole expression; when it refuses, on the longest parts it takes, from the left."""
        whole = self.normalizer.convert(spoken, category)
        if whole is not None:
            return whole
        words, out, i = spoken.split(), [], 0
        while i < len(words):
            for j in range(len(words), i, -1):
                written = self.normalizer.convert(" ".join(words[i:j]), category)
                if written is not None:
                    out.append(written)
                    i = j
                    break
            else:
                out.append(words[i])
                i += 1
        return " ".join(out)

    def stream(self, words):
        """(all final text, tail) after each word, the finished text, seconds of each push."""
        stream, final, steps, seconds = self.normalizer.stream(), "", [], []
        for word in words:
            began = time.process_time()
            update = stream.push(word)
            seconds.append(time.process_time() - began)
            final += update.final
            steps.append((final, update.tail))
        return steps, final + stream.finish().final, seconds

    def files(self):
        profile = self.root / "itn" / "profiles" / self.profile
        return [*profile.rglob("*"), *(self.root / "itn" / "models").rglob("*")]


class Peer:
    """A system without streaming: it runs again on the whole text at every word, and nothing is final before the end."""

    def stream(self, words):
        steps, seconds = [], []
        for count in range(1, len(words) + 1):
            began = time.process_time()
            shown = self.normalize(" ".join(words[:count]))
            seconds.append(time.process_time() - began)
            steps.append(("", shown))
        return steps, steps[-1][1] if steps else "", seconds


class Nemo(Peer):
    """NeMo-text-processing, lower-case grammar, read from its cache (its own list call is no faster than single calls)."""

    def __init__(self, job):
        import logging

        logging.disable(logging.INFO)
        from nemo_text_processing.inverse_text_normalization.inverse_normalize import InverseNormalizer

        self.make, self.cache = InverseNormalizer, job["cache"]

    def load(self):
        self.normalizer = self.make(lang="en", input_case="lower_cased", cache_dir=self.cache)
        self.normalize(FIRST)

    def normalize(self, text):
        return self.normalizer.inverse_normalize(text, verbose=False)

    def files(self):  # the verbaliser is built at every start and has no file
        return Path(self.cache).rglob("*.far")


class Wetext(Peer):
    """WeText: its grammars compiled, run by kaldifst (the package `wetext`)."""

    def __init__(self, job):
        import wetext

        self.make, self.folder = wetext.Normalizer, Path(wetext.__file__).parent / "fsts" / "en" / "itn"

    def load(self):
        self.normalizer = self.make(lang="en", operator="itn")
        self.normalize(FIRST)

    def normalize(self, text):
        return self.normalizer.normalize(text)

    def files(self):
        return self.folder.rglob("*.fst")


SYSTEMS = {"ours": Ours, "nemo": Nemo, "wetext": Wetext}


def run(job):
    """The answers to a job: figures of the load, then for each set the texts, the seconds and the streams asked for."""
    began = time.perf_counter()
    system = SYSTEMS[job["system"]](job)
    imported = time.perf_counter()
    system.load()
    loaded = time.perf_counter()
    for text in job["warm"]:
        system.normalize(text)
    answer = {
        "import_s": imported - began,
        "load_s": loaded - imported,
        "resident": resident() - BARE,
        "disk": sum(file.stat().st_size for file in system.files() if file.is_file()),
        "sets": {},
    }
    for name, texts in job.get("sets", {}).items():
        began = time.process_time()
        written = [system.normalize(text) for text in texts]
        answer["sets"][name] = {"written": written, "seconds": time.process_time() - began}
    answer["given"] = [system.given(category, spoken) for category, spoken in job.get("given", [])]
    answer["streams"] = [system.stream(text.split()) for text in job.get("streams", [])]
    return answer


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    os.sched_setaffinity(0, {job["cpu"]})
    Path(sys.argv[2]).write_text(json.dumps(run(job)))
