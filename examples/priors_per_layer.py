"""A different prior for each layer, with learnt hyperparameters, by MAP.

Trains on the digits and prints the table of priors, the test scores, the hyperparameters, and the
spectra with intervals. Writes a run folder, `runs/priors_per_layer`, with a figure of the spectrum
of each matrix; where the folder has a run, that is continued or shown again.

Run: `python examples/priors_per_layer.py [FOLDER]`.
"""

import sys
from pathlib import Path

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset


def main(out: Path = Path("runs/priors_per_layer"), epochs: int = 15) -> htr.Posterior:
    """Train, print results, write figures, and return the posterior."""
    data = load_dataset("digits")
    net = build_network("mlp", data.input_shape, data.num_classes)
    priors = htr.Priors(
        {
            "fc1.weight": htr.MaxEigenvalue(htr.Frechet(2.0, scale=htr.LogNormal(0.0, 1.0))),
            "fc2.weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0), scale=1.0)),
            "fc3.weight": htr.penalties.weight_decay(),
        }
    ).scaled(2.0)
    print(priors.explain(net, num_data=len(data.y_train)))
    posterior = htr.fit(
        htr.BayesianClassifier(net, priors),
        (data.x_train, data.y_train),
        method=htr.MAP(lr=0.05),
        epochs=epochs,
        out=out,
        resume=True,  # run again, it reads what it has found
    )
    print(posterior.evaluate((data.x_test, data.y_test)))
    print(posterior.hyperparameters())
    spectra = posterior.spectra()
    print(spectra.summary())
    for name in spectra:
        spectra.plot(name, path=out / f"{name}.png")
    return posterior


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
