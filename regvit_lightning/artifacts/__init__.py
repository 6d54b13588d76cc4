"""The paper's analysis of tokens: where artifacts are, what they hold and what they do."""
