"""Progress lines of stages that several threads report at once."""

import io
import threading

from merpo.commands.stages import Stages


def test_one_stage_reported_by_threads_that_were_silent_before():
    stream, failed = io.StringIO(), []

    def report(bars, done):
        try:
            bars.report("meta-model", done, 10, {"nll": 1.5})
        except Exception as error:
            failed.append(error)

    with Stages(every=0.0, stream=stream) as bars:
        for done in (5, 5, 10, 10):  # a second thread is as far as the first was
            thread = threading.Thread(target=report, args=(bars, done))
            thread.start()
            thread.join()
    assert not failed
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("meta-model: 10/10")
    assert "nll 1.5" in lines[-1]
