"""Learning when to defer: scoring texts, fitting a head, calibrating it, and judging the pair.

These functions do the work of ``colm score``, ``train``, ``calibrate`` and ``evaluate``. ``docs/training.md`` is a
tutorial::

    from colm_cpp import learn

    with learn.Scorer("small.gguf", "large.gguf") as scorer:
        learn.score(scorer, learn.select(["texts.jsonl"]), "scores")
    trained = learn.train([learn.Scores("scores")], learn.TrainingOptions(objective="regret"))
    trained.head.save("head.gguf")

Nothing here is imported by ``import colm_cpp``.
"""

from .calibration import Calibrated, calibrate
from .checkers import CHECKERS, Checker, Verdict, make_checker
from .continuation import continue_paths
from .corpus import BadRow, Corpus, Document, read_documents
from .evaluation import Arm, evaluate, make_arms
from .forks import Continuations
from .records import Record, RecordFolder
from .references import Above, Estimate, Reference
from .respond import respond
from .scores import Scores
from .scoring import Scorer, score
from .selection import select
from .summary import ArmSummary, Comparison, Summary, summarize
from .tasks import Problem, Task, load_prompts, load_task
from .training import Metrics, Trained, TrainingOptions, train

__all__ = [
    "CHECKERS",
    "Above",
    "Arm",
    "ArmSummary",
    "BadRow",
    "Calibrated",
    "Checker",
    "Comparison",
    "Continuations",
    "Corpus",
    "Document",
    "Estimate",
    "Metrics",
    "Problem",
    "Record",
    "RecordFolder",
    "Reference",
    "Scorer",
    "Scores",
    "Summary",
    "Task",
    "Trained",
    "TrainingOptions",
    "Verdict",
    "calibrate",
    "continue_paths",
    "evaluate",
    "load_prompts",
    "load_task",
    "make_arms",
    "make_checker",
    "read_documents",
    "respond",
    "score",
    "select",
    "summarize",
    "train",
]
