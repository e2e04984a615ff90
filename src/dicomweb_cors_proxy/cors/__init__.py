"""The CORS policy: which origins, methods and headers are allowed; pure.

Read options, validation, policy and engine in this order. Users describe a policy by
`PolicyOptions`; `validation` finds its faults; requests are decided by a `CompiledPolicy`.
"""
