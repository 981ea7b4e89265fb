"""Commands: each module has add_arguments(parser) and run(args).

`run` may put what a script wants to know into `args.result`; with --json the command line prints it.
"""
