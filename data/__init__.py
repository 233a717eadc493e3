"""What ships with the library: embedded encoder, architectures, rates, the paper's numbers.

A package only so that setuptools can install the folder as ``fedquad.data``;
`fedquad.paths.package_data` finds the files. ``runs/`` stays in the repository.
"""
