"""The CORS policy: which origins, methods and headers are allowed; pure.

Read origins, validation and policy in this order; engine applies policies to requests.
"""
