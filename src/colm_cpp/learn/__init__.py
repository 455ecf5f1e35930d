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

from ..answers.answering import Arm
from ..answers.checkers import CHECKERS, Checker, Verdict, make_checker
from ..answers.problems import Problem, Task, load_prompts, load_task
from ..corpus.documents import BadRow, Corpus, Document, read_documents
from ..corpus.selection import select
from ..evaluate.arms import make_arms
from ..evaluate.evaluation import evaluate
from ..evaluate.records import RecordFolder
from ..evaluate.references import Above, Estimate, Reference
from ..evaluate.summary import ArmSummary, Comparison, Summary, summarize
from ..options.training import TrainingOptions, costs_by_time
from ..traces.record import Record
from .calibration import Calibrated, calibrate
from .choice_report import ChoiceReport, ModelReport
from .continuation import continue_paths
from .forks import Continuations
from .metrics import Metrics
from .respond import respond
from .scores import Scores
from .scoring import Scorer, score
from .shards import Joined, merge_shards
from .training import Segments, Trained, train

__all__ = [
    "CHECKERS",
    "Above",
    "Arm",
    "ArmSummary",
    "BadRow",
    "Calibrated",
    "Checker",
    "ChoiceReport",
    "Comparison",
    "Continuations",
    "Corpus",
    "Document",
    "Estimate",
    "Joined",
    "Metrics",
    "ModelReport",
    "Problem",
    "Record",
    "RecordFolder",
    "Reference",
    "Scorer",
    "Scores",
    "Segments",
    "Summary",
    "Task",
    "Trained",
    "TrainingOptions",
    "Verdict",
    "calibrate",
    "continue_paths",
    "costs_by_time",
    "evaluate",
    "load_prompts",
    "load_task",
    "make_arms",
    "make_checker",
    "merge_shards",
    "read_documents",
    "respond",
    "score",
    "select",
    "summarize",
    "train",
]
