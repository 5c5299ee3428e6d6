import torch

from nc_sweeps.dynamics.batches import MiniBatches


def test_each_epoch_shows_every_sample_once():
    batches = MiniBatches(torch.tensor([4, 5]), 10, 4)
    assert batches.steps_per_epoch == 3
    taken = [batches.of(step) for step in range(1, 7)]
    assert [chosen.shape[1] for chosen in taken] == [4, 4, 2, 4, 4, 2]
    for epoch in (taken[:3], taken[3:]):
        whole = torch.cat(epoch, dim=1)
        assert torch.equal(whole.sort(dim=1).values, torch.arange(10).expand(2, 10))
    assert not torch.equal(taken[0], taken[3])
    assert not torch.equal(taken[0][0], taken[0][1])


def test_a_stretch_is_its_steps_one_after_another():
    batches = MiniBatches(torch.tensor([4, 5]), 10, 4)
    order, position = batches.along(2, 8)
    assert position == 8
    taken = torch.cat([batches.of(step) for step in range(3, 9)], dim=1)
    assert torch.equal(order[:, position : position + taken.shape[1]], taken)
