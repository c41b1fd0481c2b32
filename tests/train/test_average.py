"""The moving average of the weights: what it is, and where it stands in for them."""

from __future__ import annotations

import pytest
import torch

from podx_train.training.average import averaged_weights, update_average


def test_the_average_follows_the_weights_and_stands_in_for_them() -> None:
    weight, idle = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight, idle], lr=0.5)
    average, decays = torch.zeros(2), []
    for update in range(1, 30):
        weight.grad = torch.tensor([1.0, -1.0])
        optimizer.step()
        update_average(optimizer, 0.6, update)
        decays.append(min(0.6, (1 + update) / (10 + update)))
        average = weight.detach().clone() if update == 1 else decays[-1] * average + (1 - decays[-1]) * weight.detach()
    assert decays[0] == pytest.approx(2 / 11) and decays[-1] == 0.6
    last = weight.detach().clone()
    with averaged_weights(optimizer):
        torch.testing.assert_close(weight.detach(), average)
    assert torch.equal(weight.detach(), last) and idle.item() == 1.0
    torch.testing.assert_close(optimizer.state[weight]["average"], average)
    idle.grad = torch.ones(1)
    optimizer.step()  # a weight that got no gradient before starts as the optimiser wants it


def test_weights_come_back_after_an_error() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    with averaged_weights(optimizer):
        assert torch.equal(weight, torch.ones(3))  # there is no average yet
    weight.grad = torch.ones(3)
    optimizer.step()
    update_average(optimizer, 0.9, 1)
    optimizer.step()
    last = weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), averaged_weights(optimizer):
        assert not torch.equal(weight, last)
        raise KeyboardInterrupt
    assert torch.equal(weight, last)
