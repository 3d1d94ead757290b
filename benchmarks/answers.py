"""Counts how many questions on the sample notes a running server answers with the right fact, at several temperatures.

python benchmarks/answers.py [--url http://127.0.0.1:8000] [--temperatures 0 0.7] [--seeds 1 2 3]

An answer counts as right if it holds the fact's words, and as found if the right paragraph is among its sources. Sampled answers
are asked for once with each seed, greedy ones once.
"""

import argparse
import sys

import httpx

QUESTIONS = [  # question, a phrase the right answer must hold, the paragraph it stands in
    ("How many devices may a hobbyist build at home without equipment authorization?", "five", "15.23"),
    ("What is the maximum conducted output power of a digitally modulated 2.4 GHz device?", "1 watt", "15.247"),
    ("What power spectral density may a digitally modulated 15.247 device have?", "8 dBm", "15.247"),
    (
        "How long may a frequency hopper at 902-928 MHz with a 20 dB bandwidth under 250 kHz stay on one channel?",
        "0.4 second",
        "15.247",
    ),
    ("What field strength may an NFC reader at 13.56 MHz have?", "15,848", "15.225"),
    ("What is the radiated limit of a Class B digital device from 88 to 216 MHz?", "150 microvolts", "15.109"),
    ("How soon must a hand-operated garage door transmitter stop after the button is released?", "5 seconds", "15.231"),
    ("Where does the part 15 statement go if the device is too small for the label?", "manual", "15.19"),
    ("How soon must a 5 GHz access point leave its channel after it detects radar?", "10 seconds", "15.407"),
    ("Where must the responsible party for a Supplier's Declaration of Conformity be?", "United States", "2.1077"),
    ("What is the SAR limit for the general population over 1 gram of tissue?", "1.6 W/kg", "1.1310"),
    ("How often must an amateur station identify itself?", "10 minutes", "97.119"),
    ("What is the greatest transmitter power an amateur station may ever use?", "1.5 kW", "97.313"),
    ("With whom must a 406 MHz EPIRB be registered?", "NOAA", "80.1061"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    try:
        _run(given)
    except httpx.ConnectError:
        sys.exit(f"no server answers at {given.url}: start one with fcc-rag serve, or name it with --url")


def _run(given: argparse.Namespace) -> None:
    runs = [(t, seed) for t in given.temperatures for seed in (given.seeds if t else given.seeds[:1])]
    right: dict[tuple[float, int], int] = dict.fromkeys(runs, 0)
    found = 0
    for question, fact, section in QUESTIONS:
        for temperature, seed in runs:  # interleaved, question by question
            request = {
                "messages": [{"role": "user", "content": question}],
                "temperature": temperature,
                "seed": seed,
                "max_tokens": 100,
            }
            answer = httpx.post(given.url + "/api/chat", json=request, timeout=600).raise_for_status().json()
            right[temperature, seed] += fact.lower() in answer["message"]["content"].lower()
        found += any(section in source["citation"] for source in answer["sources"])
    print(f"model {answer['model']}, {len(QUESTIONS)} questions; the right section is among the sources of {found}")
    for (temperature, seed), count in right.items():
        how = f"temperature {temperature}, seed {seed}" if temperature else "temperature 0"
        print(f"{how}: {count} of {len(QUESTIONS)} answers hold the fact")


if __name__ == "__main__":
    main()
