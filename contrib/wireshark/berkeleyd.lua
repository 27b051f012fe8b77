-- A Wireshark dissector for berkeleyd: every frame type of PROTOCOL.md, version 1.
--
-- It shows what a frame says, whether a node would take it for a frame at all (an expert info of severity error is named for the
-- counter of PROTOCOL.md, section 6, under which the frame is dropped; a warning is legal, but odd), and what several frames
-- say together: which response answers a request, and how far the two clocks were apart. It has no keys, and checks no code.
--
-- The tables below are the layouts of `src/protocol.rs`; `tests/wireshark.rs` holds the two against each other.

local berkeleyd = Proto("berkeleyd", "berkeleyd clock agreement")

local MAGIC = 0x424b
local VERSION = 1
local PORT = 5525
local MAX_FRAME_LEN = 1452

-- ---- layout ------------------------------------------------------------------------------------------------------------

-- A field: its name in PROTOCOL.md, its size in bytes, what kind of value it holds, and what it means. Each begins where
-- the one before it ends.
local LAYOUT = {
    header = {
        { "magic", 2, "magic", "\"BK\"" },
        { "version", 1, "count", "Of the protocol" },
        { "type", 1, "type", "What the frame is" },
        { "flags", 2, "flags", "Of the frame" },
        { "length", 2, "count", "Bytes of the whole frame, trailer included" },
        { "domain", 4, "count", "The ensemble's number" },
        { "round", 4, "count", "The round that the frame belongs to, 0 where there is none" },
        { "term", 8, "count", "The mastership: the master's, the one that is claimed, or the highest followed" },
        { "sender", 8, "count", "The sending node's number" },
        { "incarnation", 8, "count", "Which life of the sender" },
    },
    trailer = {
        { "key_id", 4, "count", "Which key made the code" },
        { "reserved", 4, "bytes", "Zero" },
        { "recipient", 8, "count", "The incarnation of the one node that the frame is for, 0: whoever hears it" },
        { "sequence", 8, "count", "The sender's local time in ns when it wrote the frame, or one more than the last" },
        { "mac", 16, "bytes", "AES-128-CMAC over everything before it (not checked here)" },
    },
    request = {
        { "t1", 8, "local_time", "When the request was sent, on the master's local clock" },
        { "ahead", 8, "span", "Request: target(t1) - t1; response: disciplined(t3) - t3" },
        { "rate", 8, "rate", "Of the target relative to the local clock" },
        { "error_bound", 8, "bound", "How far the clock can be from ensemble time" },
        { "previous_t1", 8, "local_time", "Names the exchange before" },
        { "previous_t4", 8, "local_time_or_none", "When its answer arrived, on the master's local clock" },
        { "window", 4, "count", "Microseconds over which the group's answers are to be spread, 0: one node, at once" },
        { "reserved", 28, "bytes", "Zero" },
    },
    response = {
        { "t1", 8, "local_time", "When the request was sent, on the master's local clock" },
        { "t2", 8, "local_time", "When the request arrived, on the slave's local clock" },
        { "t3", 8, "local_time", "When the response was sent, on the slave's local clock" },
        { "ahead", 8, "span", "Request: target(t1) - t1; response: disciplined(t3) - t3" },
        { "slew", 8, "span", "What the disciplined clock still has to gain at t3" },
        { "rate", 8, "rate", "Of the target relative to the local clock" },
        { "error_bound", 8, "bound", "How far the clock can be from ensemble time" },
        { "adjustment", 4, "count", "How many corrections this incarnation has applied" },
        { "applied_round", 4, "count", "The round whose correction was applied or refused last, 0 when none" },
        { "previous_t1", 8, "local_time", "Names the exchange before" },
        { "t3_late", 4, "late", "From the t3 in the response before to the instant at which that really left" },
        { "response_flags", 2, "response_flags", "Of a response" },
        { "reserved", 2, "bytes", "Zero" },
    },
    correction = {
        { "count", 2, "count", "Entries that follow" },
        { "correction_flags", 2, "correction_flags", "Of a correction" },
        { "reserved", 4, "bytes", "Zero" },
        { "previous_t1", 8, "local_time", "Names the exchange before" },
        { "previous_t4", 8, "local_time_or_none", "When its answer arrived, on the master's local clock" },
    },
    entry = {
        { "node", 8, "count", "Whom the entry is for" },
        { "node_incarnation", 8, "count", "Which incarnation of it" },
        { "reference", 8, "local_time", "When the correction holds, on that slave's local clock" },
        { "correction", 8, "span", "What it adds to its target" },
        { "rate", 8, "rate", "Of the target relative to the local clock" },
        { "error_bound", 8, "bound", "How far the clock can be from ensemble time" },
        { "rate_error", 4, "rate_error", "How far the rate can be from the ensemble's" },
        { "adjustment", 4, "count", "How many corrections this incarnation has applied" },
    },
    acknowledgement = {
        { "adjustment", 4, "count", "How many corrections this incarnation has applied" },
        { "outcome", 1, "outcome", "What became of the correction" },
        { "reserved", 3, "bytes", "Zero" },
    },
    join = {
        { "priority", 4, "signed", "Place in the standby order, higher is preferred" },
        { "join_flags", 2, "join_flags", "Of a join" },
        { "merit", 1, "merit", "What the node brings to a mastership" },
        { "reserved", 1, "bytes", "Zero" },
        { "master", 8, "count", "The master that is followed or heard, 0 when none" },
        { "master_incarnation", 8, "count", "Which incarnation of it" },
        { "corrected_term", 8, "count", "The term in which the clock was corrected last" },
        { "corrected_master", 8, "count", "And by whom, 0 when it never was" },
        { "rate_error", 4, "rate_error", "How far the rate can be from the ensemble's" },
        { "reserved", 36, "bytes", "Zero" },
    },
    leave = {
        { "successor", 8, "count", "Who takes over at once, 0 when nobody" },
    },
    announce = {
        { "interval", 8, "span", "Time between rounds" },
        { "priority", 4, "signed", "Place in the standby order, higher is preferred" },
        { "merit", 1, "merit", "What the node brings to a mastership" },
        { "heartbeat", 1, "heartbeat", "The next announce follows within this time" },
        { "members", 2, "count", "Nodes that answer the master" },
        { "successor_1", 8, "count", "Who takes over when the master falls silent, 0 is nobody" },
        { "successor_2", 8, "count", "Who does so when that one does not" },
        { "successor_3", 8, "count", "Who does so when that one does not" },
        { "successor_4", 8, "count", "Who does so when that one does not" },
        { "successor_5", 8, "count", "Who does so when that one does not" },
        { "successor_6", 8, "count", "Who does so when that one does not" },
        { "successor_7", 8, "count", "Who does so when that one does not" },
        { "successor_8", 8, "count", "Who does so when that one does not" },
    },
    claim = {
        { "priority", 4, "signed", "Place in the standby order, higher is preferred" },
        { "merit", 1, "merit", "What the node brings to a mastership" },
        { "reserved", 1, "bytes", "Zero" },
        { "claim_flags", 2, "claim_flags", "Of a claim" },
    },
    refusal = {
        { "master", 8, "count", "The master that is followed or heard, 0 when none" },
    },
}

local TYPES = {
    "request", "response", "correction", "acknowledgement", "join", "leave", "announce", "claim", "refusal",
}
local MERITS = {
    [0] = "does not stand", "never corrected, implausible time", "never corrected", "shows an ensemble's time", "appointed",
}
local OUTCOMES = { "stepped", "slewed", "refused" }
-- Bits by number; what is not named is reserved.
local FLAGS = {
    flags = { [0] = "authenticated" },
    response_flags = { [0] = "reference", [1] = "synchronised", [2] = "near_the_wire" },
    correction_flags = { [0] = "acknowledged_by_response" },
    join_flags = { [0] = "reference", [2] = "hears_group" },
    claim_flags = { [0] = "hand_over" },
}
-- These frames answer one node or ask it, so that their trailer has to name it.
local NAMES_RECIPIENT = { request = true, response = true, acknowledgement = true, refusal = true }

local function size_of(layout)
    local size = 0
    for _, field in ipairs(layout) do
        size = size + field[2]
    end
    return size
end

local HEADER_LEN = size_of(LAYOUT.header)
local TRAILER_LEN = size_of(LAYOUT.trailer)
local CORRECTION_LEN = HEADER_LEN + size_of(LAYOUT.correction)
local ENTRY_LEN = size_of(LAYOUT.entry)
local MAX_ENTRIES = math.floor((MAX_FRAME_LEN - TRAILER_LEN - CORRECTION_LEN) / ENTRY_LEN)

-- ---- values ------------------------------------------------------------------------------------------------------------

local ZERO = Int64.new(0)
local TWO = Int64.new(2)
local NOT_KNOWN = Int64.fromhex("7fffffffffffffff")
local WIRE_LIMIT = Int64.fromhex("4000000000000000")
local RATE_LIMIT = Int64.fromhex("000000174876e800") -- 10^11
local RATE_UNIT = Int64.fromhex("000000e8d4a51000") -- 10^12, what a rate counts
local TERM_LIMIT = UInt64.fromhex("0001000000000000")
local BILLION = Int64.new(1000000000)
local LATE_NOT_KNOWN = 0xffffffff

-- `digits` of an integer shifted to the right by `places`, without the zeros that say nothing. Text, because a number of Lua
-- has 53 bits.
local function shifted(value, places)
    local sign, digits = tostring(value):match("^(-?)(%d+)$")
    digits = string.rep("0", places + 1 - #digits) .. digits
    local whole, part = digits:sub(1, -places - 1), digits:sub(-places):gsub("0+$", "")
    return sign .. whole .. (part == "" and "" or "." .. part)
end

-- Nanoseconds in the unit that reads best.
local function time_text(value)
    local size = #tostring(value):gsub("^%-", "")
    if size > 9 then
        return shifted(value, 9) .. " s"
    elseif size > 6 then
        return shifted(value, 6) .. " ms"
    elseif size > 3 then
        return shifted(value, 3) .. " µs"
    end
    return tostring(value) .. " ns"
end

local function rate_text(value)
    return shifted(value, 6) .. " ppm"
end

-- Nanoseconds since 1970 as a time that Wireshark can show; nil before that.
local function calendar(nanos)
    if nanos < ZERO then
        return nil
    end
    return NSTime.new((nanos / BILLION):tonumber(), (nanos % BILLION):tonumber())
end

local function signed(range)
    return range:len() == 8 and range:int64() or range:int()
end

local function unsigned(range)
    return range:len() == 8 and range:uint64() or range:uint()
end

local function is_in(value, lowest, highest)
    return value >= lowest and value <= highest
end

-- What there is to a kind of value: `read` takes it from the bytes, `text` adds what a reader wants to know beside the
-- number, `is_legal` knows its range.
local KINDS = {
    bytes = {},
    magic = { read = unsigned },
    count = { read = unsigned },
    signed = { read = signed },
    type = { read = unsigned },
    merit = {
        read = unsigned,
        is_legal = function(value) return value <= 4 end,
    },
    outcome = {
        read = unsigned,
        is_legal = function(value) return is_in(value, 1, 3) end,
    },
    heartbeat = {
        read = unsigned,
        text = function(value) return value * 10 .. " ms" end,
        is_legal = function(value) return is_in(value, 10, 100) end,
    },
    local_time = {
        read = signed,
        text = time_text,
        is_legal = function(value) return value >= ZERO and value < WIRE_LIMIT end,
    },
    local_time_or_none = {
        read = signed,
        text = function(value) return value == NOT_KNOWN and "there is none" or time_text(value) end,
        is_legal = function(value) return value == NOT_KNOWN or value >= ZERO and value < WIRE_LIMIT end,
    },
    span = {
        read = signed,
        text = time_text,
        is_legal = function(value) return value > -WIRE_LIMIT and value < WIRE_LIMIT end,
    },
    bound = {
        read = signed,
        text = function(value) return value == NOT_KNOWN and "not known" or time_text(value) end,
        is_legal = function(value) return value == NOT_KNOWN or value >= ZERO and value < WIRE_LIMIT end,
    },
    late = {
        read = unsigned,
        text = function(value) return value == LATE_NOT_KNOWN and "not known" or time_text(value) end,
    },
    rate = {
        read = signed,
        text = rate_text,
        is_legal = function(value) return is_in(value, -RATE_LIMIT, RATE_LIMIT) end,
    },
    rate_error = { read = unsigned, text = rate_text },
}
for name in pairs(FLAGS) do
    KINDS[name] = { read = unsigned }
end

-- Ranges that belong to one field rather than to its kind.
local LEGAL = {
    term = function(value) return value <= TERM_LIMIT end,
    corrected_term = function(value) return value <= TERM_LIMIT end,
    sender = function(value) return value ~= UInt64.new(0) end,
    incarnation = function(value) return value ~= UInt64.new(0) end,
    interval = function(value) return value > ZERO and value < WIRE_LIMIT end,
}
-- Who announces itself or claims, stands.
local STANDS = { announce = true, claim = true }

-- Adds to an item what says more than the number itself.
local function append_readable(item, value, text)
    local readable = text(value)
    if readable ~= tostring(value) .. " ns" then
        item:append_text(" (" .. readable .. ")")
    end
    return item
end

-- ---- fields ------------------------------------------------------------------------------------------------------------

local fields = {}

-- "error_bound" as a label.
local function label(name)
    return (name:gsub("_", " "))
end

local function new_field(name, size, kind, meaning)
    local abbreviation = "berkeleyd." .. name
    if kind == "bytes" then
        return ProtoField.bytes(abbreviation, label(name), base.SPACE, meaning)
    end
    local integer = ProtoField["uint" .. size * 8]
    if kind == "signed" then
        return ProtoField.int32(abbreviation, label(name), base.DEC, nil, nil, meaning)
    elseif kind == "type" then
        return integer(abbreviation, label(name), base.DEC, TYPES, nil, meaning)
    elseif kind == "merit" then
        return integer(abbreviation, label(name), base.DEC, MERITS, nil, meaning)
    elseif kind == "outcome" then
        return integer(abbreviation, label(name), base.DEC, OUTCOMES, nil, meaning)
    elseif kind == "magic" or FLAGS[kind] then
        return integer(abbreviation, label(name), base.HEX, nil, nil, meaning)
    elseif kind == "heartbeat" then
        return integer(abbreviation, label(name), base.UNIT_STRING, { " x 10 ms" }, nil, meaning)
    elseif kind == "late" then
        return integer(abbreviation, label(name), base.UNIT_STRING, { " ns" }, nil, meaning)
    elseif kind == "rate_error" then
        return integer(abbreviation, label(name), base.UNIT_STRING, { " x 1e-12" }, nil, meaning)
    elseif kind == "rate" then
        return ProtoField.int64(abbreviation, label(name), base.UNIT_STRING, { " x 1e-12" }, nil, meaning)
    elseif kind == "count" then
        return integer(abbreviation, label(name), base.DEC, nil, nil, meaning)
    end
    return ProtoField.int64(abbreviation, label(name), base.UNIT_STRING, { " ns" }, nil, meaning)
end

for _, layout in pairs(LAYOUT) do
    for _, field in ipairs(layout) do
        local name, size, kind, meaning = field[1], field[2], field[3], field[4]
        fields[name] = fields[name] or new_field(name, size, kind, meaning)
    end
end

local flag_fields = {}
for name, bits in pairs(FLAGS) do
    flag_fields[name] = {}
    for bit, meaning in pairs(bits) do
        local flag = ProtoField.bool("berkeleyd." .. name .. "." .. meaning, label(meaning), 16, nil, 2 ^ bit)
        flag_fields[name][bit] = flag
        fields[name .. "." .. meaning] = flag
    end
end

-- What stands in no frame, but follows from one or several.
local NS = { " ns" }
local derived = {
    entry = ProtoField.none("berkeleyd.entry", "entry", "What one slave has to do to its clock"),
    trailer = ProtoField.none("berkeleyd.trailer", "trailer", "Of an authenticated frame"),
    body = ProtoField.bytes("berkeleyd.body", "body of an unknown type", base.SPACE),
    trailing = ProtoField.bytes("berkeleyd.trailing", "trailing bytes", base.SPACE),
    target = ProtoField.absolute_time("berkeleyd.target", "target at t1", base.UTC, "What the master's clock is to show"),
    disciplined = ProtoField.absolute_time("berkeleyd.disciplined", "disciplined clock at t3", base.UTC,
        "What the slave's clock shows"),
    turnaround = ProtoField.int64("berkeleyd.turnaround", "turnaround", base.UNIT_STRING, NS, nil, "t3 - t2"),
    response_in = ProtoField.framenum("berkeleyd.response_in", "answered in frame", base.NONE, frametype.RESPONSE),
    response_to = ProtoField.framenum("berkeleyd.response_to", "answers frame", base.NONE, frametype.REQUEST),
    response_time = ProtoField.relative_time("berkeleyd.response_time", "response time",
        "From the request to the response, by the clock that captured them"),
    exchange = ProtoField.framenum("berkeleyd.exchange", "completes the exchange answered in frame", base.NONE,
        frametype.RESPONSE),
    t4 = ProtoField.int64("berkeleyd.t4", "t4", base.UNIT_STRING, NS, nil,
        "When the response arrived, on the master's local clock: the next request says so"),
    delay = ProtoField.int64("berkeleyd.delay", "delay", base.UNIT_STRING, NS, nil,
        "(t4 - t1) - (t3 - t2), the round trip"),
    offset = ProtoField.int64("berkeleyd.offset", "offset", base.UNIT_STRING, NS, nil,
        "Slave's target minus master's, by the stamps on the wire; true within half the delay"),
}
for name, field in pairs(derived) do
    fields[name] = field
end

berkeleyd.fields = fields

-- ---- expert infos ------------------------------------------------------------------------------------------------------

local function expert_info(name, text, kind, severity)
    return ProtoExpert.new("berkeleyd.expert." .. name, text, kind, severity)
end

-- Errors bear the names of the counters under which a node drops the frame.
local ERROR, WARN = expert.severity.ERROR, expert.severity.WARN
local experts = {
    too_short = expert_info("too_short", "Shorter than a header", expert.group.MALFORMED, ERROR),
    magic = expert_info("magic", "No frame of berkeleyd", expert.group.MALFORMED, ERROR),
    version = expert_info("version", "Unknown version", expert.group.UNDECODED, ERROR),
    type = expert_info("type", "Unknown type", expert.group.UNDECODED, ERROR),
    count = expert_info("count", "No entries, or more than fit a frame", expert.group.MALFORMED, ERROR),
    length = expert_info("length", "Wrong length", expert.group.MALFORMED, ERROR),
    trailing = expert_info("trailing", "Bytes behind the frame", expert.group.MALFORMED, ERROR),
    no_trailer = expert_info("no_trailer", "A trailer is announced, but missing", expert.group.MALFORMED, ERROR),
    out_of_range = expert_info("out_of_range", "Out of range", expert.group.PROTOCOL, ERROR),
    implausible_times = expert_info("implausible_times", "Implausible times", expert.group.PROTOCOL, WARN),
    reserved = expert_info("reserved", "Reserved, but not zero", expert.group.PROTOCOL, WARN),
    unknown_key = expert_info("unknown_key", "No key has the number 0", expert.group.SECURITY, WARN),
    unproven = expert_info("unproven", "Names no recipient, and has to", expert.group.SECURITY, WARN),
}
berkeleyd.experts = experts

-- ---- frames of one exchange --------------------------------------------------------------------------------------------

-- Exchanges by the two addresses, the domain and t1: what was asked, and what was answered.
local exchanges = {}

function berkeleyd.init()
    exchanges = {}
end

local function exchange_key(master, master_port, slave, slave_port, domain, t1)
    return table.concat({ tostring(master), master_port, tostring(slave), slave_port, domain, tostring(t1) }, " ")
end

-- How far the slave's target is ahead of the master's at t3 (PROTOCOL.md, section 5), and the delay. Nothing is known of t3_late.
local function measure(exchange)
    local asked, answered, t4 = exchange.asked, exchange.answered, exchange.t4
    local theta = ((answered.t2 - asked.t1) + (answered.t3 - t4)) / TWO
    local delay = (t4 - asked.t1) - (answered.t3 - answered.t2)
    local elapsed = answered.t3 - theta - asked.t1
    -- The product fits for 92 ms at the largest rate; exchanges take milliseconds.
    local gained = asked.rate * elapsed / RATE_UNIT
    return theta + answered.ahead + answered.slew - asked.ahead - gained, delay
end

local function show_measured(tree, exchange)
    local offset, delay = measure(exchange)
    append_readable(tree:add(derived.t4, exchange.t4), exchange.t4, time_text):set_generated()
    append_readable(tree:add(derived.delay, delay), delay, time_text):set_generated()
    append_readable(tree:add(derived.offset, offset), offset, time_text):set_generated()
    return "offset " .. time_text(offset) .. ", delay " .. time_text(delay)
end

-- Frames are seen in order once; what a later one adds shows when Wireshark looks at the earlier again (`tshark -2`). Both give
-- what was measured as a line, if anything was.
local function follow_request(tree, pinfo, header, body)
    local function key(t1)
        return exchange_key(pinfo.src, pinfo.src_port, pinfo.dst, pinfo.dst_port, header.domain, t1)
    end
    local exchange = exchanges[key(body.t1)] or {}
    if not pinfo.visited and not exchange.asked then
        exchange.request, exchange.sent, exchange.asked = pinfo.number, pinfo.rel_ts, body
        exchanges[key(body.t1)] = exchange
    end
    if exchange.response then
        tree:add(derived.response_in, exchange.response):set_generated()
    end
    local before = exchanges[key(body.previous_t1)]
    if before and before.answered and body.previous_t4 ~= NOT_KNOWN then
        before.t4 = body.previous_t4
        tree:add(derived.exchange, before.response):set_generated()
        return show_measured(tree, before)
    end
end

local function follow_response(tree, pinfo, header, body)
    local key = exchange_key(pinfo.dst, pinfo.dst_port, pinfo.src, pinfo.src_port, header.domain, body.t1)
    local exchange = exchanges[key]
    if not exchange then
        return
    end
    if not pinfo.visited and not exchange.answered then
        exchange.response, exchange.answered = pinfo.number, body
    end
    tree:add(derived.response_to, exchange.request):set_generated()
    -- By time since the capture's beginning: a number of Lua keeps one since 1970 to a quarter of a microsecond only.
    local passed = pinfo.rel_ts - exchange.sent
    local seconds = math.floor(passed)
    tree:add(derived.response_time, NSTime.new(seconds, math.floor((passed - seconds) * 1e9 + 0.5))):set_generated()
    if exchange.t4 and exchange.response == pinfo.number then
        return show_measured(tree, exchange)
    end
end

-- ---- a frame -----------------------------------------------------------------------------------------------------------

-- What there is of a layout, from `at` on: the values by name, and the items that show them.
local function read_fields(buffer, at, layout, tree)
    local values, items = {}, {}
    for _, field in ipairs(layout) do
        local name, size, kind = field[1], field[2], field[3]
        if at + size > buffer:len() then
            break
        end
        local range = buffer(at, size)
        local item = tree:add(fields[name], range)
        local read, text = KINDS[kind].read, KINDS[kind].text
        local value = read and read(range)
        if text then
            append_readable(item, value, text)
        end
        if FLAGS[kind] then
            local set = {}
            for bit = 0, 15 do
                local flag = flag_fields[kind][bit]
                local is_set = math.floor(value / 2 ^ bit) % 2 == 1
                if flag then
                    item:add(flag, range)
                    if is_set then
                        set[#set + 1] = label(FLAGS[kind][bit])
                    end
                elseif is_set then
                    item:add_proto_expert_info(experts.reserved, "Bit " .. bit .. " is reserved, but set")
                end
            end
            item:append_text(#set > 0 and " (" .. table.concat(set, ", ") .. ")" or "")
        elseif name == "reserved" and range:bytes():tohex():find("[^0]") then
            item:add_proto_expert_info(experts.reserved)
        end
        values[name], items[name] = value, item
        at = at + size
    end
    return values, items
end

-- Marks what no honest node sends.
local function judge_fields(layout, type_name, values, items)
    for _, field in ipairs(layout) do
        local name, kind = field[1], field[3]
        local value = values[name]
        local is_legal = LEGAL[name] or KINDS[kind].is_legal
        local is_meaningless = name == "previous_t1"
            and (values.previous_t4 == NOT_KNOWN or values.t3_late == LATE_NOT_KNOWN)
        local stands = name ~= "merit" or not STANDS[type_name] or value ~= 0
        if value and not is_meaningless and not (stands and (not is_legal or is_legal(value))) then
            items[name]:add_proto_expert_info(experts.out_of_range, label(name) .. " is out of range")
        end
    end
end

local function add_calendar(tree, field, nanos)
    local time = calendar(nanos)
    if time then
        tree:add(field, time):set_generated()
    end
end

local function node_text(number)
    return tostring(number) == "0" and "nobody" or "node " .. tostring(number)
end

-- What follows from a body, and its one line for the list of frames. Called only when all fields are there.
local DETAILS = {}

function DETAILS.request(tree, pinfo, header, body)
    add_calendar(tree, derived.target, body.t1 + body.ahead)
    local measured = follow_request(tree, pinfo, header, body)
    return measured and "before: " .. measured or "t1 " .. time_text(body.t1)
end

function DETAILS.response(tree, pinfo, header, body, items)
    add_calendar(tree, derived.disciplined, body.t3 + body.ahead)
    local turnaround = body.t3 - body.t2
    append_readable(tree:add(derived.turnaround, turnaround), turnaround, time_text):set_generated()
    if body.t3 < body.t2 then
        items.t3:add_proto_expert_info(experts.implausible_times, "t3 is before t2")
    end
    return follow_response(tree, pinfo, header, body) or "to t1 " .. time_text(body.t1)
end

function DETAILS.acknowledgement(_, _, _, body)
    return OUTCOMES[body.outcome] or "outcome " .. body.outcome
end

function DETAILS.join(_, _, _, body)
    return "follows " .. node_text(body.master) .. ", " .. (MERITS[body.merit] or "merit " .. body.merit)
end

function DETAILS.leave(_, _, _, body)
    return node_text(body.successor) .. " takes over"
end

function DETAILS.announce(_, _, _, body)
    local successors = {}
    for place = 1, 8 do
        local number = tostring(body["successor_" .. place])
        if number ~= "0" then
            successors[#successors + 1] = number
        end
    end
    local line = body.members .. " members, every " .. time_text(body.interval)
    return line .. (#successors > 0 and ", succeeded by " .. table.concat(successors, ", ") or "")
end

function DETAILS.claim(_, _, _, body)
    local line = "priority " .. body.priority .. ", " .. (MERITS[body.merit] or "merit " .. body.merit)
    return line .. (body.claim_flags % 2 == 1 and ", hand over" or "")
end

function DETAILS.refusal(_, _, _, body)
    return tostring(body.master) == "0" and "objects" or "master is " .. node_text(body.master)
end

-- The entries that there are; `frame_end` is where the body ends at the latest. Returns the line for the list of frames.
local function show_entries(buffer, tree, count, frame_end)
    local lines = {}
    for number = 1, count do
        local at = CORRECTION_LEN + (number - 1) * ENTRY_LEN
        if at + ENTRY_LEN > frame_end then
            break
        end
        local subtree = tree:add(derived.entry, buffer(at, ENTRY_LEN))
        local values, items = read_fields(buffer, at, LAYOUT.entry, subtree)
        judge_fields(LAYOUT.entry, "entry", values, items)
        lines[number] = node_text(values.node) .. " by " .. time_text(values.correction)
        subtree:append_text(" " .. number .. ": " .. lines[number])
    end
    return table.concat(lines, ", ")
end

local function show_trailer(buffer, tree, at, names_recipient)
    local subtree = tree:add(derived.trailer, buffer(at, TRAILER_LEN))
    local values, items = read_fields(buffer, at, LAYOUT.trailer, subtree)
    subtree:append_text(": key " .. values.key_id)
    if values.key_id == 0 then
        items.key_id:add_proto_expert_info(experts.unknown_key)
    end
    if names_recipient and tostring(values.recipient) == "0" then
        items.recipient:add_proto_expert_info(experts.unproven)
    end
end

-- Everything behind the header of a known type. Fields are shown as far as the capture has them; lengths are those of the
-- datagram.
local function show_body(buffer, pinfo, tree, header, items, type_name)
    local got, is_authenticated = buffer:reported_len(), header.flags % 2 == 1
    local layout, body_end = LAYOUT[type_name], nil
    local body, body_items = read_fields(buffer, HEADER_LEN, layout, tree)
    judge_fields(layout, type_name, body, body_items)
    local fixed_end = HEADER_LEN + size_of(layout)
    local line
    if type_name == "correction" then
        local count = body.count or 1
        if not is_in(count, 1, MAX_ENTRIES) then
            local text = string.format("%d entries, a frame holds 1 to %d", count, MAX_ENTRIES)
            body_items.count:add_proto_expert_info(experts.count, text)
        end
        body_end = fixed_end + count * ENTRY_LEN
        line = show_entries(buffer, tree, body.count or 0, math.min(buffer:len(), body_end))
    else
        body_end = fixed_end
        if buffer:len() >= fixed_end then
            line = DETAILS[type_name](tree, pinfo, header, body, body_items)
        end
    end
    if line and line ~= "" then
        pinfo.cols.info:append(": " .. line)
    end

    local need = body_end + (is_authenticated and TRAILER_LEN or 0)
    if got ~= need or header.length ~= need then
        local text = "%d bytes arrived, the length field says %d, the type asks for %d"
        items.length:add_proto_expert_info(experts.length, string.format(text, got, header.length, need))
    end
    if is_authenticated and got < need then
        items.flags:add_proto_expert_info(experts.no_trailer)
    elseif is_authenticated and buffer:len() >= need then
        -- A request with a window is for the group.
        show_trailer(buffer, tree, body_end, NAMES_RECIPIENT[type_name] and (body.window or 0) == 0)
    end
    if buffer:len() > need then
        tree:add(derived.trailing, buffer(need)):add_proto_expert_info(experts.trailing)
    end
end

function berkeleyd.dissector(buffer, pinfo, root)
    pinfo.cols.protocol = "berkeleyd"
    local tree = root:add(berkeleyd, buffer())
    local header, items = read_fields(buffer, 0, LAYOUT.header, tree)
    if buffer:reported_len() < HEADER_LEN then
        local text = string.format("%d bytes, a header has %d", buffer:reported_len(), HEADER_LEN)
        tree:add_proto_expert_info(experts.too_short, text)
    end
    if header.magic and header.magic ~= MAGIC then
        items.magic:add_proto_expert_info(experts.magic)
    elseif header.version and header.version ~= VERSION then
        items.version:add_proto_expert_info(experts.version, "Version " .. header.version .. " is not known")
    end
    if not header.incarnation then
        pinfo.cols.info = "cut short"
        return
    elseif header.magic ~= MAGIC or header.version ~= VERSION then
        pinfo.cols.info = "not understood"
        return
    end
    judge_fields(LAYOUT.header, nil, header, items)

    local type_name = TYPES[header.type]
    local name = type_name or "type " .. header.type
    local line = string.format("%s, node %s, term %s", name, tostring(header.sender), tostring(header.term))
    if header.round > 0 then
        line = line .. ", round " .. header.round
    end
    tree:append_text(": " .. line)
    pinfo.cols.info = line
    if type_name then
        show_body(buffer, pinfo, tree, header, items, type_name)
    else
        items.type:add_proto_expert_info(experts.type, "Type " .. header.type .. " is not known")
        if buffer:len() > HEADER_LEN then
            tree:add(derived.body, buffer(HEADER_LEN))
        end
    end
end

-- ---- which datagrams ---------------------------------------------------------------------------------------------------

DissectorTable.get("udp.port"):add(PORT, berkeleyd)

-- On other ports what begins as a frame does; what is broken there is shown when a good frame went the same way before.
berkeleyd:register_heuristic("udp", function(buffer, pinfo, root)
    if buffer:len() < 4 or buffer(0, 2):uint() ~= MAGIC or buffer(2, 1):uint() ~= VERSION or not TYPES[buffer(3, 1):uint()] then
        return false
    end
    pinfo.conversation = berkeleyd
    berkeleyd.dissector(buffer, pinfo, root)
    return true
end)
