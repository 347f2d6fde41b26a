"""Pictures and HTML: piano roll, loss plot, spectra, inline audio."""
