-- Does a batch of operations on one tenant, in their order, and answers each.
--
-- KEYS[1] sorted set: requests under way, by the moment at which they are taken for dead
-- KEYS[2] hash: what each of them holds
-- KEYS[3] hash: requests under way, by party
-- Of each party (`t`, the tenant, or the id of a key) besides: `<prefix>:<party>:r`, a hash of requests
-- taken, by step; `:w`, the same of tokens; `:b`, a hash of its budget.
-- ARGV[1] the batch, as JSON
-- ARGV[2] milliseconds until a request that is not heard of is taken for dead
-- ARGV[3] milliseconds to be added to the clock (tests move it)
--
-- All keys have the same hash tag, so that this runs whole on one node of a cluster: also those that are
-- not named beforehand, because only what is held says which they are. The rules are those
-- of actors/src/rules; one contract is run on both.

local SPAN, STEP = 60000, 500
local WINDOW_TTL, TTL, BUDGET_TTL = 125000, 600000, 3 * 86400000
local DAY = 86400000
local ALIVE, HELD, COUNTS = KEYS[1], KEYS[2], KEYS[3]
local lives_for = tonumber(ARGV[2])
-- Milliseconds by which time may stand still for a clock that is behind.
local LEAD = 5000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[3])

local function whole(number) return string.format('%.0f', number) end

-- A replica that takes over may be behind by a little: time does not run backwards for that. A clock that
-- was further ahead was wrong: nobody waits until it is right.
local seen = tonumber(redis.call('HGET', COUNTS, 'now') or '0')
if seen - now > LEAD then
    local until_most = whole(now + lives_for)
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '(' .. until_most, '+inf')) do
        redis.call('ZADD', ALIVE, until_most, member)
    end
else
    now = math.max(now, seen)
end
redis.call('HSET', COUNTS, 'now', whole(now))

-- Which memory this is: another one since all was lost, in microseconds of the clock at its beginning.
local memory = tonumber(redis.call('HGET', COUNTS, 'e'))
if not memory then
    memory = tonumber(time[1]) * 1000000 + tonumber(time[2])
    redis.call('HSET', COUNTS, 'e', whole(memory))
end
local step = math.floor(now / STEP)
local first = math.floor((now - SPAN) / STEP)

-- === Windows: so many in any sixty seconds ===

local windows = {}

-- The window of a key, without what no longer counts. o: the oldest step, l: the latest, s: the sum.
local function window(key)
    local w = windows[key]
    if w then return w end
    local found = redis.call('HMGET', key, 'o', 'l', 's')
    w = { key = key, o = tonumber(found[1] or step), l = tonumber(found[2] or step),
          s = tonumber(found[3] or 0), changed = false }
    if w.l > step then
        -- The clock was ahead: all that counts is taken now.
        redis.call('DEL', key)
        if w.s > 0 then redis.call('HSET', key, whole(step), whole(w.s)) end
        w.o, w.l, w.changed = step, step, true
    elseif w.l < first then
        if found[1] then redis.call('DEL', key) end
        w.o, w.s = step, 0
    elseif w.o < first then
        local names = {}
        for old = w.o, first - 1 do names[#names + 1] = whole(old) end
        for _, amount in ipairs(redis.call('HMGET', key, unpack(names))) do
            if amount then w.s = w.s - tonumber(amount) end
        end
        redis.call('HDEL', key, unpack(names))
        w.o, w.changed = first, true
    end
    windows[key] = w
    return w
end

local function add(w, amount)
    if amount <= 0 then return end
    redis.call('HINCRBY', w.key, whole(step), whole(amount))
    w.s, w.l, w.changed = w.s + amount, math.max(w.l, step), true
    w.o = math.min(w.o, step)
end

-- The latest step of which something is left; the oldest one, where nothing is.
local function latest(w)
    local names = {}
    for at = w.o, w.l do names[#names + 1] = whole(at) end
    local found = redis.call('HMGET', w.key, unpack(names))
    for i = #names, 1, -1 do
        if found[i] then return w.o + i - 1 end
    end
    return w.o
end

local function give_back(w, at, amount)
    if at < first then return end
    local there = tonumber(redis.call('HGET', w.key, whole(at)) or '0')
    amount = math.min(amount, there)
    if amount <= 0 then return end
    w.s, w.changed = w.s - amount, true
    if amount < there then
        redis.call('HINCRBY', w.key, whole(at), whole(-amount))
        return
    end
    redis.call('HDEL', w.key, whole(at))
    if at == w.l then w.l = latest(w) end
end

local function correct(w, at, taken, used)
    if used > taken then add(w, used - taken) else give_back(w, at, taken - used) end
end

-- Milliseconds from now until nothing of a step counts any more.
local function forgotten_in(at) return (at + 1) * STEP + SPAN - now end

-- Milliseconds until an amount would be granted; -1: never.
local function granted_in(w, amount, limit)
    if amount > limit then return -1 end
    local names = {}
    for at = w.o, w.l do names[#names + 1] = whole(at) end
    local left = w.s
    for i, there in ipairs(redis.call('HMGET', w.key, unpack(names))) do
        left = left - tonumber(there or '0')
        if left + amount <= limit then return forgotten_in(w.o + i - 1) end
    end
    return 0
end

local function save()
    for key, w in pairs(windows) do
        if w.changed then
            redis.call('HSET', key, 'o', whole(w.o), 'l', whole(w.l), 's', whole(w.s))
            redis.call('PEXPIRE', key, WINDOW_TTL)
        end
    end
end

-- === Budgets: so many tokens in a period of UTC ===

-- Days since 1970 of the first of a month. Howard Hinnant, "chrono-Compatible Low-Level Date
-- Algorithms", days_from_civil.
local function first_of(year, month)
    if month <= 2 then year = year - 1 end
    local era = math.floor(year / 400)
    local of_era = year - era * 400
    local shifted = month > 2 and month - 3 or month + 9
    local of_year = math.floor((153 * shifted + 2) / 5)
    local day = of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year
    return era * 146097 + day - 719468
end

-- Year and month of a number of days since 1970. As above, civil_from_days.
local function civil(days)
    local z = days + 719468
    local era = math.floor(z / 146097)
    local doe = z - era * 146097
    local yoe = math.floor(
        (doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
    local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
    local shifted = math.floor((5 * doy + 2) / 153)
    local month = shifted < 10 and shifted + 3 or shifted - 9
    return yoe + era * 400 + (month <= 2 and 1 or 0), month
end

-- Where the period that is now begins, and the next one; 0 and none for all time.
local function period(kind)
    local today = math.floor(now / DAY)
    if kind == 'day' then return today * DAY, (today + 1) * DAY end
    if kind == 'total' then return 0, nil end
    local year, month = civil(today)
    local next_year, next_month = year, month + 1
    if month == 12 then next_year, next_month = year + 1, 1 end
    return first_of(year, month) * DAY, first_of(next_year, next_month) * DAY
end

local prefix = string.match(KEYS[1], '^(.*):alive$')
local function keys_of(party)
    return prefix .. ':' .. party .. ':r', prefix .. ':' .. party .. ':w', prefix .. ':' .. party .. ':b'
end

-- What one holds: its key, when it began, the step in which it took of the windows, requests of the
-- windows of tenant and key, tokens of theirs, tokens of their budgets. -1: it took none.
local function unpack_held(text)
    local parts = {}
    for part in string.gmatch(text, '[^,]+') do parts[#parts + 1] = part end
    return { key = parts[1], began = tonumber(parts[2]), step = tonumber(parts[3]),
             requests = { tonumber(parts[4]), tonumber(parts[5]) },
             tokens = { tonumber(parts[6]), tonumber(parts[7]) },
             budget = { tonumber(parts[8]), tonumber(parts[9]) } }
end

local function pack_held(held)
    local parts = { held.key, whole(held.began), whole(held.step) }
    for _, pair in ipairs({ held.requests, held.tokens, held.budget }) do
        parts[#parts + 1] = whole(pair[1])
        parts[#parts + 1] = whole(pair[2])
    end
    return table.concat(parts, ',')
end

-- What those under way hold of the budget of a party that began since then.
local function reserved(party, start)
    local sum = 0
    local i = party == 't' and 1 or 2
    for _, text in ipairs(redis.call('HVALS', HELD)) do
        local held = unpack_held(text)
        if (i == 1 or held.key == party) and held.budget[i] >= 0 and held.began >= start then
            sum = sum + held.budget[i]
        end
    end
    return sum
end

local budgets = {}

local function put(b)
    redis.call('HSET', b.key, 'k', b.k, 'p', whole(b.p), 'g', whole(b.g), 's', whole(b.s),
        'r', whole(b.r), 'q', whole(b.q), 'u', whole(b.u))
    redis.call('PEXPIRE', b.key, BUDGET_TTL)
end

-- k: the kind of period, p: where it began, g: what it was read for (-1: it was not), s: settled, r: reserved.
-- q, u: where the period before it began, and what was settled of that one (-1: it is not known).
local function budget(party)
    local _, _, key = keys_of(party)
    local b = budgets[key]
    if b then return b end
    local found = redis.call('HMGET', key, 'k', 'p', 'g', 's', 'r', 'q', 'u')
    b = { key = key, k = found[1], p = tonumber(found[2] or '0'), g = tonumber(found[3] or '0'),
          s = tonumber(found[4] or '0'), r = tonumber(found[5] or '0'),
          q = tonumber(found[6] or '-1'), u = tonumber(found[7] or '0') }
    budgets[key] = b
    local start = b.k and period(b.k)
    if start and start < b.p then
        -- The clock was ahead: what was counted meanwhile belongs to the period that comes back. Where
        -- what was counted of that one is not known, it is read.
        if b.q == start then b.s = b.s + b.u else b.g = -1 end
        b.p, b.q, b.u, b.r = start, -1, 0, reserved(party, start)
        put(b)
    end
    return b
end

local function known(b, limit)
    return b.k == limit.kind and b.p == period(limit.kind) and b.g >= limit.read_at
end

-- === Requests under way ===

local function enter(member, held)
    redis.call('ZADD', ALIVE, whole(now + lives_for), member)
    redis.call('HSET', HELD, member, pack_held(held))
    redis.call('HINCRBY', COUNTS, 't', 1)
    redis.call('HINCRBY', COUNTS, held.key, 1)
end

local function leave(member)
    local text = redis.call('HGET', HELD, member)
    if not text then return nil end
    local held = unpack_held(text)
    redis.call('ZREM', ALIVE, member)
    redis.call('HDEL', HELD, member)
    redis.call('HINCRBY', COUNTS, 't', -1)
    if redis.call('HINCRBY', COUNTS, held.key, -1) <= 0 then redis.call('HDEL', COUNTS, held.key) end
    return held
end

local function under_way(party) return tonumber(redis.call('HGET', COUNTS, party) or '0') end

-- What was held becomes what was used; where that is nil, it never was.
local function settle(held, used)
    for i, party in ipairs({ 't', held.key }) do
        local requests, tokens = keys_of(party)
        if used == nil then give_back(window(requests), held.step, held.requests[i]) end
        if held.tokens[i] >= 0 then
            correct(window(tokens), held.step, held.tokens[i], used or 0)
        end
        local b = budget(party)
        if held.budget[i] >= 0 and b.k and held.began >= b.p then
            b.r, b.s = b.r - held.budget[i], b.s + (used or 0)
            put(b)
        elseif held.budget[i] >= 0 and b.q >= 0 and held.began >= b.q then
            b.u = b.u + (used or 0)
            put(b)
        end
    end
end

-- Those that were not heard of for too long.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', ALIVE, '-inf', whole(now), 'LIMIT', 0, 1000)) do
    local held = leave(member)
    if held then settle(held, 0) else redis.call('ZREM', ALIVE, member) end
end

-- === Operations ===

local function gauges(party, limits)
    local requests, tokens = keys_of(party)
    local told = {}
    for name, found in pairs({ rpm = requests, tpm = tokens }) do
        if limits[name] then
            local w = window(found)
            local reset = w.s > 0 and forgotten_in(w.l) or 0
            told[name] = { whole(math.max(0, limits[name] - w.s)), whole(reset) }
        end
    end
    if limits.budget then
        local b, start, ends = budget(party), period(limits.budget.kind)
        -- Where nobody has said how much is used, nothing is told; of a period that is over nothing
        -- counts in this one.
        if b.k == limits.budget.kind and b.g >= 0 then
            local used = b.p == start and b.s + b.r or 0
            local left = math.max(0, limits.budget.tokens - used)
            told.budget = { whole(left), ends and whole(ends - now) or nil }
        end
    end
    return told
end

-- The limits that say no to a request, as { name, milliseconds to wait }; -1 for ever, -2 unknown.
local function refusals(party, limits, op)
    local requests, tokens = keys_of(party)
    local found = {}
    if limits.rpm and window(requests).s + 1 > limits.rpm then
        found[#found + 1] = { 'rpm', granted_in(window(requests), 1, limits.rpm) }
    end
    if limits.tpm and op.tokens > 0 and window(tokens).s + op.tokens > limits.tpm then
        found[#found + 1] = { 'tpm', granted_in(window(tokens), op.tokens, limits.tpm) }
    end
    if limits.budget then
        local b = budget(party)
        local left = math.max(0, limits.budget.tokens - b.s - b.r)
        if op.tokens_max > left then
            local _, ends = period(limits.budget.kind)
            local never = not ends or op.tokens_max > limits.budget.tokens
            found[#found + 1] = { 'budget', never and -1 or ends - now }
        end
    end
    if limits.concurrency and under_way(party) >= limits.concurrency then
        found[#found + 1] = { 'concurrency', limits.concurrency == 0 and -1 or -2 }
    end
    return found
end

local function unknown(party, limits)
    if not limits.budget then return nil end
    local b, kind = budget(party), limits.budget.kind
    if known(b, limits.budget) then return nil end
    local start = period(kind)
    if not b.k then
        -- From now on what is settled is counted: it may come too late for who reads how much is used.
        b.k, b.p, b.g, b.s, b.r = kind, start, -1, 0, reserved(party, start)
        put(b)
    end
    local told = { party = party, kind = kind, start = whole(start), memory = whole(memory) }
    if b.g >= 0 then
        told.counted = { b.k, whole(b.p), whole(b.s) }
    elseif b.k == kind and b.p == start then
        told.settled = whole(b.s)
    end
    return told
end

local does = {}

function does.admit(op)
    local parties = { { op.key, op.key_limits, 'key' }, { 't', op.tenant_limits, 'tenant' } }
    local lacking = {}
    for i = #parties, 1, -1 do
        lacking[#lacking + 1] = unknown(parties[i][1], parties[i][2])
    end
    if #lacking > 0 then return { unknown = lacking } end
    local observed = {}
    for _, party in ipairs(parties) do
        for _, refusal in ipairs(refusals(party[1], party[2], op)) do
            if not party[2].observed[refusal[1]] then
                return { refused = { party[3], refusal[1], whole(refusal[2]) },
                         key = gauges(op.key, op.key_limits), tenant = gauges('t', op.tenant_limits) }
            end
            observed[#observed + 1] = { party[3], refusal[1] }
        end
    end
    local held = { key = op.key, began = now, step = step, requests = { -1, -1 },
                   tokens = { -1, -1 }, budget = { -1, -1 } }
    for i, party in ipairs({ parties[2], parties[1] }) do
        local requests, tokens = keys_of(party[1])
        if party[2].rpm then
            add(window(requests), 1)
            held.requests[i] = 1
        end
        if party[2].tpm then
            add(window(tokens), op.tokens)
            held.tokens[i] = op.tokens
        end
        if party[2].budget then
            local b = budget(party[1])
            b.r = b.r + op.tokens_max
            held.budget[i] = op.tokens_max
            put(b)
        end
    end
    enter(op.member, held)
    return { held = pack_held(held), observed = #observed > 0 and observed or nil,
             key = gauges(op.key, op.key_limits), tenant = gauges('t', op.tenant_limits) }
end

function does.top_up(op)
    local text = redis.call('HGET', HELD, op.member)
    if not text then return { topped = false } end
    local held = unpack_held(text)
    local counted = {}
    for i, party in ipairs({ 't', held.key }) do
        local b, limits = budget(party), op.limits[i]
        if held.budget[i] >= 0 and b.k and held.began >= b.p then
            local limit = limits.budget and not limits.observed.budget and limits.budget.tokens
            -- Of a period that is over there is nothing left to decide.
            local counts = limit and b.p == period(b.k)
            -- Nor is there anything to be had of what is not known.
            if counts and (b.g < 0 or op.more > math.max(0, limit - b.s - b.r)) then
                return { topped = false }
            end
            counted[#counted + 1] = b
        end
    end
    for _, b in ipairs(counted) do
        b.r = b.r + op.more
        put(b)
    end
    for i = 1, 2 do
        if held.budget[i] >= 0 then held.budget[i] = held.budget[i] + op.more end
    end
    redis.call('HSET', HELD, op.member, pack_held(held))
    return { topped = true }
end

function does.settle(op)
    local held = leave(op.member)
    if held then settle(held, op.used) end
    return {}
end

function does.cancel(op)
    local held = leave(op.member)
    if held then settle(held, nil) end
    return {}
end

-- Whether some of those that are under way have still to be registered.
local lacks = false

function does.beat(op)
    local missing = {}
    for _, member in ipairs(op.members) do
        if redis.call('HEXISTS', HELD, member) == 1 then
            redis.call('ZADD', ALIVE, whole(now + lives_for), member)
        else
            missing[#missing + 1] = member
        end
    end
    lacks = lacks or #missing > 0
    return { missing = #missing > 0 and missing or nil }
end

function does.register(op)
    if redis.call('HEXISTS', HELD, op.member) == 1 then return {} end
    local held = unpack_held(op.held)
    enter(op.member, held)
    for i, party in ipairs({ 't', held.key }) do
        local b = budget(party)
        if held.budget[i] >= 0 and b.k and held.began >= b.p then
            b.r = b.r + held.budget[i]
            put(b)
        end
    end
    return {}
end

function does.set_usage(op)
    local start = period(op.kind)
    -- All was lost since it was asked for, or it is not said yet who is under way: it is asked for again.
    if start ~= op.start or op.memory ~= memory or lacks then return {} end
    local b = budget(op.party)
    local is_same = b.k == op.kind and b.p == start
    if is_same and b.g >= op.read_at then
        -- Somebody else was faster.
        return {}
    end
    local since = is_same and math.max(0, b.s - op.counted) or 0
    if not is_same then
        local is_next = b.k == op.kind and b.p < start and b.g >= 0
        b.q, b.u = is_next and b.p or -1, is_next and b.s or 0
    end
    b.k, b.p, b.g, b.s = op.kind, start, op.read_at, op.used + since
    -- What is under way goes on, and counts where it began in this period.
    b.r = reserved(op.party, start)
    put(b)
    return {}
end

function does.look(op)
    local told = { { gauges = gauges('t', op.tenant_limits), under_way = under_way('t') } }
    for _, key in ipairs(op.keys) do
        told[#told + 1] = { gauges = gauges(key[1], key[2]), under_way = under_way(key[1]) }
    end
    return { looked = told }
end

local answers = {}
for i, op in ipairs(cjson.decode(ARGV[1])) do
    answers[i] = does[op.op](op)
end
save()
for _, key in ipairs({ ALIVE, HELD, COUNTS }) do redis.call('PEXPIRE', key, TTL) end
return cjson.encode(answers)
