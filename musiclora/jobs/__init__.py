"""Public API: one typed function for each command that trains, generates, scores or prepares.

The architecture of the model decides which functions do the work; see `families.FamilySpec`. Errors are raised as
`MusicLoraError` with one sentence.
"""

from musiclora.jobs.comparison import compare
from musiclora.jobs.listening import make_listening_test, score_listening_test
from musiclora.jobs.models import JobResult
from musiclora.jobs.preparation import PreprocessResult, preprocess
from musiclora.jobs.sharing import push
from musiclora.jobs.training import demo, learning_curve, open_session, plan, pretrain, train
from musiclora.jobs.use import evaluate, generate, watch
from musiclora.progress import Reporter
from musiclora.training.result import TrainResult

__all__ = [
    "JobResult",
    "PreprocessResult",
    "Reporter",
    "TrainResult",
    "compare",
    "demo",
    "evaluate",
    "generate",
    "learning_curve",
    "make_listening_test",
    "open_session",
    "plan",
    "preprocess",
    "pretrain",
    "push",
    "score_listening_test",
    "train",
    "watch",
]
