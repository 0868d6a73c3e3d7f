"""A posterior over spectra on the digits: bands, intervals, and checks of a law.

Fits the posterior and writes figures to `runs/posterior_spectra`: the spectrum of each matrix with
its band, alpha by layer, prior and posterior of the largest eigenvalue, two checks of a law, and
the spectra during training.

Run: `python examples/posterior_spectra.py [FOLDER]`.
"""

import sys
from pathlib import Path

import bayes_htr as htr
from bayes_htr.experiments import build_network, load_dataset


def main(out: Path = Path("runs/posterior_spectra"), epochs: int = 30) -> htr.Posterior:
    """Fit the posterior, print results, write figures, and return the posterior."""
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset("digits")
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    net = build_network("mlp", data.input_shape, data.num_classes)
    priors = htr.Priors(
        {
            "fc[12].weight": htr.ESD(htr.Lomax(alpha=2.5, scale=0.05)),
            "fc3.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
        }
    )
    model = htr.BayesianClassifier(net, priors)
    before = htr.prior_predictive(model, data.x_test, samples=16)
    print(f"prior predictive: mean entropy {before.entropy.mean():.3f} nats")

    history = htr.SpectrumHistory()
    posterior = htr.fit(model, train, epochs=epochs, batch_size=32, callbacks=[history])
    print(posterior.evaluate(test))

    spectra = posterior.spectra(samples=100)
    print(spectra.summary())
    for name in spectra:
        spectra.plot(name, path=out / f"{name}.png")
        spectra.plot_lambda_max(name, path=out / f"{name}-lambda_max.png")
    spectra.plot_alpha(path=out / "alpha.png")
    # The check rejects the law of the prior, because the spectrum is wider. A wider law passes.
    for label, law in (("prior", None), ("lognormal", htr.ESD(htr.LogNormal(-1.5, 3.0)))):
        check = posterior.check("fc1.weight", law)
        print(check)
        check.plot(path=out / f"check-{label}.png")
    history.plot("fc2.weight", path=out / "steps.png")
    history.plot_traces(path=out / "traces.png")
    history.animate(out / "spectra.gif")
    return posterior


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
