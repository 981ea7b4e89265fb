"""The paper's published weights in models of ours. From facts: no weights, text tables or code of the authors."""
