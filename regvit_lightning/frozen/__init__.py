"""What every frozen evaluation shares: contract, settings, module, trainer."""
