"""Other names of keys, metrics and precisions: suggestions go by meaning before they go by letters."""

from collections.abc import Mapping
from functools import cache

#: Words, in small letters and without - and _, by what to say instead; where keys stand in a row, those that a run has.
_KEYS = {
    "dynamics.step_size": "lr learningrate eta η dt step stepsize rate alpha",
    "dynamics.batch_size": "bs batch batchsize minibatch minibatchsize trainbatchsize",
    "dynamics.horizon with dynamics.horizon_unit=epochs": "epoch epochs nepochs numepochs maxepochs trainepochs",
    "dynamics.horizon": "steps nsteps numsteps maxsteps iterations iters niter maxiter duration length time maxtime t",
    "dynamics.lambda_rho dynamics.lambda_w dynamics.weight_decay": (
        "wd weightdecay decay l2 lambda λ lam reg regularisation regularization ridge"
    ),
    "dynamics.beta": "temperature temp noise noiselevel noisescale inversetemperature β",
    "dynamics.loss": "lossfunction lossfn criterion",
    "dynamics.schedule": "scheduler lrschedule lrscheduler milestones",
    "dynamics.integrator": "solver method discretisation discretization",
    "dynamics": "optimizer optimiser optim opt algorithm algo training",
    "model.hidden width.particles": "hidden hiddensize hiddensizes hiddendim hiddenunits",
    "model.hidden": "layers nlayers numlayers depth layersizes",
    "width.particles": "n width nparticles numparticles neurons nneurons units",
    "model.features": "p featuredim featuresize nfeatures numfeatures embeddingdim",
    "model.activation": "act activationfunction nonlinearity sigma σ",
    "model.gamma": "γ outputscale",
    "model": "network net arch architecture backbone",
    "dataset.train_per_class": "m samples nsamples numsamples samplesperclass ntrain numtrain trainsize size",
    "dataset.test_per_class": "ntest numtest testsize testsamples nval valsize",
    "dataset.classes": "nclasses numclasses classcount k c q",
    "dataset.dimension": "d dim inputdim inputsize ndim inputdimension",
    "dataset": "data datasets task",
    "separation.margin": "tau τ gap separability",
    "separation.distance": "delta meandistance snr",
    "compute.accelerator": "device gpu cuda cpu accel hardware",
    "compute.devices": "gpus ngpus numgpus ndevices numdevices worldsize",
    "compute.nodes": "nnodes numnodes",
    "compute.threads": "cores cpus ncpus nthreads numthreads workers numworkers njobs",
    "compute.precision": "dtype floattype fp bits",
    "compute.memory": "mem ram memorygb memgb maxmemory",
    "metrics.points": "npoints measurements nmeasurements",
    "metrics.every": "evalevery logevery logeveryn loginterval evalinterval",
    "optimized_metric": "metric objective monitor target optimisedmetric",
    "seed": "seeds randomseed randomstate rng rngseed",
    "name": "experimentname runname expname exp title sweepname",
    "output_dir": "out outdir output outputdir outputs results resultsdir savedir logdir dir",
    "data_dir": "datadir datapath dataroot root datafolder",
    "tracking": "wandb logger logging tracker log",
    "tracking.project": "wandbproject projectname",
    "tracking.entity": "team user wandbentity",
    "figure": "plot plots picture",
    "hydra/launcher": "launcher submit cluster slurm",
    "hydra/sweeper": "sweeper optuna search",
    "hydra.sweeper.n_trials": "ntrials trials",
}

_METRICS = {
    "error/test": "accuracy acc testaccuracy testacc valaccuracy valacc test/accuracy val/accuracy err testerror error",
    "error/train": "trainaccuracy trainacc train/accuracy trainerror",
    "loss/test": "loss testloss valloss validationloss test/loss val/loss mse crossentropy",
    "loss/train": "trainloss trainingloss train/loss",
    "nc1/test": "nc1 collapse nc neuralcollapse variability withinclassvariability",
    "balancedness": "balance nb",
    "certificate/nc1_bound": "bound certificate nc1bound",
}

_PRECISIONS = {
    "32-true": "32 fp32 float32 f32 float single full 32bit",
    "64-true": "64 fp64 float64 f64 double 64bit",
    "bf16-mixed": "16 bf16 bfloat16 fp16 float16 half mixed 16-mixed bf16true",
}

_ACCELERATORS = {"gpu": "cuda:0 cuda:1 gpu:0 nvidia rocm", "cpu": "none no false host"}


def find_keys(word: str) -> list[str]:
    """Return the keys that are meant by a word of another language than ours; there may be none."""
    # In mathematics N counts particles and n samples.
    meant = "dataset.train_per_class" if word == "n" else _invert("keys").get(_normalise(word), "")
    return [meant] if " with " in meant else meant.split()


def find_choice(key: str, word: str) -> str | None:
    """Return the choice of a key that is meant by a word; None if the word means none."""
    return _invert(key).get(_normalise(word))


@cache
def _invert(name: str) -> Mapping[str, str]:
    tables = {
        "keys": _KEYS, "metric": _METRICS, "optimized_metric": _METRICS, "compute.precision": _PRECISIONS,
        "compute.accelerator": _ACCELERATORS,
    }  # fmt: skip
    return {word: meant for meant, words in tables.get(name, {}).items() for word in _normalise(words).split()}


def _normalise(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")
