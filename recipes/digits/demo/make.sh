#!/usr/bin/env bash
# Makes the demo recording: Debian's flite (voice slt) reads a phone number. Needs: apt-get install flite sox
# flite and its voice cmu_us_slt are Carnegie Mellon University's, BSD-like: /usr/share/doc/flite/copyright.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flite -voice slt --setf duration_stretch=1.1 -t "five five five, zero one eight, two six, nine seven." -o "$work/speech.wav"
# -R: reproducible (fixed dither seed); half a second of silence before, a fifth after the last word
sox -R "$work/speech.wav" -b 16 -r 16000 phone_number.flac gain -n -6 pad 0.5 0.2
echo "five five five zero one eight two six nine seven" > phone_number.txt
