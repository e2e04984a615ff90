"""`probe`: the verdict of a browser on a DICOMweb root, from the same requests.

| file           | holds                                                   |
|----------------|---------------------------------------------------------|
| `fetch.py`     | the Fetch standard's steps, which judge                 |
| `safelists.py` | its lists of methods and headers                        |
| `responses.py` | the head of a response, as the standard reads it        |
| `origins.py`   | origins of URLs                                         |
| `client.py`    | requests with raw heads                                 |
| `network.py`   | connections: checked addresses, one deadline            |
| `page.py`      | a page's `fetch`: preflight, request, redirects         |
| `session.py`   | the requests of one probe, and their outcomes           |
| `checks.py`    | the checks in their order, one function each            |
| `instances.py` | an instance to ask for                                  |
| `presence.py`  | the check that there is a DICOMweb service at all       |
| `hints.py`     | remedies for statuses, and for servers out of reach     |
| `findings.py`  | the results                                             |
| `reasons.py`   | reasons in words                                        |
| `advice.py`    | the settings that change a result                       |
| `links.py`     | URLs and UIDs in responses                              |
| `addresses.py` | how far away a server is                                |
| `ohif.py`      | the keys of OHIF's data source, each found by a request |
| `app_config.py`| OHIF's configuration file                               |
| `report.py`    | the report as text and as JSON                          |
"""
