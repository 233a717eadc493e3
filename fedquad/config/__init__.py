"""What an experiment is: frozen, validated settings, and the id derived from them."""

from fedquad.config.experiments import RESULT_VERSION, FineTuneConfig, run_id, settings_of
from fedquad.config.federated import FederatedConfig
from fedquad.config.layers import Assignment, LayerConfig
from fedquad.config.profiles import PROFILES, Profile, get_profile
from fedquad.config.validation import (
    InputError,
    require_choice,
    require_int,
    require_layers,
    require_positive,
)

__all__ = [
    "PROFILES",
    "RESULT_VERSION",
    "Assignment",
    "FederatedConfig",
    "FineTuneConfig",
    "InputError",
    "LayerConfig",
    "Profile",
    "get_profile",
    "require_choice",
    "require_int",
    "require_layers",
    "require_positive",
    "run_id",
    "settings_of",
]
