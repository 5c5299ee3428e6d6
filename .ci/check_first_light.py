"""What `make run` promises, checked on what it left in results/first_light."""

import polars as pl

import nc_sweeps

table = nc_sweeps.load_sweep("results/first_light")
runs = table.group_by("signature").agg(
    pl.col("separation.margin").first(),
    (pl.col("nc1/train").first() / pl.col("nc1/train").last()).alias("fall"),
    pl.col("certificate/nc1_bound").last().alias("bound"),
    pl.col("error/test").last().alias("error"),
)
separated, overlapping = runs.filter(pl.col("separation.margin") > 0), runs.filter(pl.col("separation.margin") < 0)
late = table.filter((pl.col("separation.margin") > 0) & (pl.col("step") >= pl.col("step").max() / 10))
assert runs.height == 24
assert late["certificate/tightness"].min() >= 0.8
assert (table["nc1/train"] <= table["certificate/nc1_bound"] * (1 + 1e-3)).all()
assert (separated["fall"] > 10).all()
assert (separated["bound"] < 0.2).all()
assert (separated["error"] == 0).all()
assert (overlapping["error"] > 0).all()
print(
    f"{table.height} rows below their bound; separated: NC1 fell {separated['fall'].min():.0f}-fold or more, "
    f"tightness from a tenth of training on at least {late['certificate/tightness'].min():.2f}, "
    f"closed form at least {late['certificate/closed_form'].min():.3f}, "
    f"Cor. 4.4 at least {table['paper/corollary_4_4'].min():.2f}, "
    f"bound at most {separated['bound'].max():.3f}, test error 0; overlapping: test error at least "
    f"{overlapping['error'].min():.3f}"
)
