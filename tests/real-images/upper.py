"""A job in Python: answers each line's text in capitals, with what the image's configuration says."""

import json
import os
import sys
import unicodedata

for line in sys.stdin:
    record = json.loads(line)
    answer = {
        "text": unicodedata.normalize("NFC", record["text"]).upper(),
        "greeting": os.environ["GREETING"],
        "folder": os.getcwd(),
    }
    print(json.dumps(answer), flush=True)
