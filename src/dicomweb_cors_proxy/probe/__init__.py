"""`probe`: what a browser would say of a DICOMweb root, asked as it would ask.

| file           | holds                                                   |
|----------------|---------------------------------------------------------|
| `fetch.py`     | the Fetch standard's steps, which judge                 |
| `client.py`    | requests with raw heads                                 |
| `network.py`   | connections: checked addresses, one deadline            |
| `page.py`      | a page's `fetch`: preflight, request, redirects         |
| `checks.py`    | what is asked, in which order, and what is made of it   |
| `findings.py`  | what came out                                           |
| `reasons.py`   | why, in words                                           |
| `advice.py`    | the settings that change it                             |
| `links.py`     | URLs and UIDs in answers                                |
| `addresses.py` | how far away a server is                                |
| `report.py`    | the report as text and as JSON                          |
"""
