"""How far answers are from their targets."""

import torch
import torch.nn.functional as F

from model_store.faces import AGES, ATTRIBUTES

# So that both heads pull about equally at the shared body.
_ATTRIBUTES_WEIGHT = 8.0
_YEARS_WEIGHT = 0.1


def loss(
    logits: torch.Tensor,
    attributes: torch.Tensor,
    attributes_known: torch.Tensor,
    ages: torch.Tensor,
    ages_known: torch.Tensor,
) -> torch.Tensor:
    """Of one batch: cross entropies of the attributes and of the ages, and the error of the mean age.

    `attributes` [N, 40] and `ages` [N, 100] are probabilities; rows whose `known` [N] is 0 do not count.
    """
    attribute_logits, age_logits = logits[:, : len(ATTRIBUTES)], logits[:, len(ATTRIBUTES) :]
    errors = F.binary_cross_entropy_with_logits(attribute_logits, attributes, reduction="none")
    log_ages = age_logits.log_softmax(1)
    years = torch.tensor(AGES, dtype=logits.dtype)
    years_off = ((log_ages.exp() - ages) @ years).abs()
    age_errors = -(ages * log_ages).sum(1) + _YEARS_WEIGHT * years_off
    return _ATTRIBUTES_WEIGHT * _mean(errors.mean(1), attributes_known) + _mean(age_errors, ages_known)


def _mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (values * known).sum() / known.sum().clamp(min=1)
