"""Section 10 of PROTOCOL.md for peer.py: the trailer, and what is let in. Written from that section, RFC 4493 and FIPS 197."""

import hmac
import struct

TRAILER = struct.Struct(">I4xQQ16s")  # key_id, recipient, sequence, mac
MAC_SIZE = 16
FLAGS, LENGTH, AUTHENTICATED = slice(4, 6), slice(6, 8), 1
LEAST, MOST = 80, 1452  # bytes of an authenticated frame
REMEMBERED, SECOND = 17, 10**9
CANDIDATES, PROVEN = 64, 65
FORGOTTEN_PART = 1000  # 1,000 ppm


class Dropped(Exception):
    """Something received is dropped; `reason` is the document's name of the counter."""

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


def double(byte):
    """Times x in AES's field."""
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


def make_s_box():
    """FIPS 197, 5.1.1: inverses, by the powers of 3 and of its inverse, and then five rotations."""
    box, power, inverse = [0x63] * 256, 1, 1
    for _ in range(255):
        rotations = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        box[power] = (rotations ^ (rotations >> 8)) & 0xFF ^ 0x63
        power ^= double(power)
        for shift in 1, 2, 4:  # divided by 3
            inverse ^= inverse << shift & 0xFF
        inverse ^= 0x09 if inverse & 0x80 else 0
    return bytes(box)


S_BOX = make_s_box()


# What a byte in each row of a column adds to the four of it: substituted, and mixed.
MIXED = [[int.from_bytes(column[-row:] + column[:-row] if row else column, "big") for column in
          (bytes([double(byte), byte, byte, double(byte) ^ byte]) for byte in S_BOX)] for row in range(4)]


class Aes128:
    """Encrypts single blocks, numbers of 128 bits."""

    def __init__(self, key):
        words, round_constant = list(struct.unpack(">4I", key)), 1
        for number in range(4, 44):
            word = words[-1]
            if number % 4 == 0:
                rotated = (word << 8 | word >> 24) & 0xFFFFFFFF
                word = int.from_bytes(bytes(S_BOX[byte] for byte in rotated.to_bytes(4, "big")), "big")
                word ^= round_constant << 24
                round_constant = double(round_constant)
            words.append(words[-4] ^ word)
        self._round_keys = [number_of(words[i:i + 4]) for i in range(0, 44, 4)]

    def encrypt(self, block):
        first, *middle, last = self._round_keys
        block ^= first
        for round_key in middle:
            cells = block.to_bytes(16, "big")
            block = round_key ^ number_of(
                MIXED[0][cells[i]] ^ MIXED[1][cells[(i + 5) % 16]] ^ MIXED[2][cells[(i + 10) % 16]]
                ^ MIXED[3][cells[(i + 15) % 16]] for i in range(0, 16, 4))
        cells = block.to_bytes(16, "big")
        return last ^ int.from_bytes(bytes(S_BOX[cells[5 * i % 16]] for i in range(16)), "big")


def number_of(words):
    one, two, three, four = words
    return one << 96 | two << 64 | three << 32 | four


class Cmac:
    """RFC 4493: the codes that a key makes."""

    def __init__(self, key):
        self._cipher = Aes128(key)
        self._whole = self._doubled(self._cipher.encrypt(0))
        self._padded = self._doubled(self._whole)

    @staticmethod
    def _doubled(block):
        return (block << 1) % 2**128 ^ (0x87 if block >> 127 else 0)

    def code(self, message):
        cut = max((len(message) - 1) // 16, 0) * 16
        code, rest = 0, message[cut:]
        for start in range(0, cut, 16):
            code = self._cipher.encrypt(code ^ int.from_bytes(message[start:start + 16], "big"))
        mask = self._whole if len(rest) == 16 else self._padded
        last = rest if len(rest) == 16 else (rest + b"\x80").ljust(16, b"\0")
        return self._cipher.encrypt(code ^ mask ^ int.from_bytes(last, "big")).to_bytes(16, "big")


class Window:
    """What was accepted of one incarnation."""

    def __init__(self):
        self._floor, self._accepted, self._quickest, self._heard = 0, [], None, 0

    def accept(self, sequence, arrival):
        if sequence <= self._floor or sequence in self._accepted:
            raise Dropped("replayed")
        self._accepted = sorted(self._accepted + [sequence])
        if len(self._accepted) > REMEMBERED:
            self._floor = max(self._floor, self._accepted.pop(0))
        self._floor = max(self._floor, self._accepted[-1] - SECOND)
        ahead = sequence - arrival
        forgotten = 0 if self._quickest is None else self._quickest - abs(arrival - self._heard) // FORGOTTEN_PART
        self._quickest = ahead if self._quickest is None else max(ahead, forgotten)
        self._heard = arrival
        if self._quickest - ahead > SECOND:
            raise Dropped("held_back")


class Guard:
    """Seals and admits with one key. `own` is the incarnation of this node; times are local, in ns."""

    def __init__(self, key_id, key, own):
        self._key_id, self._cmac, self._own = key_id, Cmac(key), own
        self._sequence = 0
        self._candidates, self._proven = {}, {}

    def seal(self, frame, recipient, now):
        """The frame with its trailer, for an incarnation or, when that is 0, for whoever hears it."""
        self._sequence = max(now, self._sequence + 1)
        data = bytearray(frame)
        data[FLAGS] = (int.from_bytes(data[FLAGS], "big") | AUTHENTICATED).to_bytes(2, "big")
        data[LENGTH] = (len(frame) + TRAILER.size).to_bytes(2, "big")
        data += TRAILER.pack(self._key_id, recipient, self._sequence, b"")[:-MAC_SIZE]
        return bytes(data) + self._cmac.code(bytes(data))

    def check(self, data):
        """The first steps of receiving: the trailer's recipient and sequence, if the code is right."""
        if not int.from_bytes(data[FLAGS], "big") & AUTHENTICATED:
            raise Dropped("unauthenticated")
        if not (LEAST <= len(data) <= MOST and int.from_bytes(data[LENGTH], "big") == len(data)):
            raise Dropped("length")
        key_id, recipient, sequence, mac = TRAILER.unpack_from(data, len(data) - TRAILER.size)
        if key_id != self._key_id:
            raise Dropped("unknown_key")
        if not hmac.compare_digest(mac, self._cmac.code(data[:-MAC_SIZE])):
            raise Dropped("wrong_code")
        return recipient, sequence

    def admit(self, life, recipient, sequence, names_one, arrival):
        """The last steps, of a frame that is sound: True when it is fresh. `names_one`: its type MUST name its recipient."""
        if recipient not in (0, self._own):
            raise Dropped("stale_incarnation")
        if names_one and not recipient:
            raise Dropped("unproven")
        windows = self._proven if life in self._proven else self._candidates
        windows.setdefault(life, Window()).accept(sequence, arrival)
        if recipient:
            self._proven[life] = windows.pop(life)
        for forgetful, room in (self._candidates, CANDIDATES), (self._proven, PROVEN):
            while len(forgetful) > room:
                del forgetful[next(iter(forgetful))]
        return life in self._proven
