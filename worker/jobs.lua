-- All changes of a job, as one script for Redis. ARGV: the name of a change, then its arguments.
-- worker/jobs.py calls this script and puts these constants before it:
-- LEASE, RECONCILE, QUIET, WAKE, KEPT, IDEMPOTENCY, ALIVE, SENDING (seconds), MAX_LOST, MAX_EVENTS, MAX_SAMPLES, MAX_ENDED,
-- MAX_PER_RECEIVER (counts).
--
-- digits:job:<id>           hash        the record; expires KEPT after the end
-- digits:events:<id>        stream      fields kind and data (JSON); the newest MAX_EVENTS; expires likewise
-- digits:samples:<id>       list        the ids of its events with a picture, the newest first
-- digits:ended              sorted set  the ids of ended jobs by the time of their end, the newest MAX_ENDED
-- digits:jobs               sorted set  every id by the time of its creation
-- digits:queued             sorted set  the ids of queued jobs by the time of their creation
-- digits:leases             sorted set  the ids of running jobs by the end of their lease
-- digits:webhooks           sorted set  the ids of ended jobs whose webhook waits, by the time when it is due
-- digits:sending            sorted set  the ids of those that a process has taken to send, by the time when they are due again
-- digits:workers            sorted set  the names of workers by the time of their last word
-- digits:idempotency:<key>  hash        id and fingerprint of the request with that key; expires after IDEMPOTENCY
-- digits:reconciling        string      keeps other reconcilers out until the next pass is due
-- digits:reconciled         string      the time of the last pass
-- digits:probe              string      what a try to write leaves, for a minute
-- digits:quiet              string      while it exists, no lease counts as lost
-- digits:totals             hash        how often, since the first job: accepted, attempts, given_back, lost_leases, resumes,
--                                       succeeded, failed, canceled; they outlive the records

local time = redis.call('TIME')  -- the clock of Redis, so that the clocks of the hosts do not matter
local now = time[1] + time[2] / 1e6
local stamp = string.format('%.6f', now)

local function key(id) return 'digits:job:' .. id end
local function events(id) return 'digits:events:' .. id end
local function samples(id) return 'digits:samples:' .. id end
-- Redis lets a script go on that has begun to write, even if its memory is full. So only new jobs are refused then.
local function go_on_without_memory() redis.call('DEL', 'digits:probe') end

local function get(id, ...)
  local found = redis.pcall('HMGET', key(id), ...)
  if found.err then return nil end  -- no record of ours: it must not stand in the way of others
  return unpack(found)
end
local function set(id, ...) redis.call('HSET', key(id), ...) end

-- pcall: what /metrics tells must not stand in the way of a job.
local function total(what, times) redis.pcall('HINCRBY', 'digits:totals', what, times or 1) end

-- Pictures are most of what a job keeps. The version has all of them once the job has ended.
local function drop_samples(id, count)
  while redis.call('LLEN', samples(id)) > count do
    redis.call('XDEL', events(id), redis.call('RPOP', samples(id)))
  end
end

local function tell(id, kind, data)
  local event = redis.call('XADD', events(id), 'MAXLEN', MAX_EVENTS, '*', 'kind', kind, 'data', data)
  if kind == 'sample' then
    redis.call('LPUSH', samples(id), event)
    drop_samples(id, MAX_SAMPLES)
  end
end

local function forget_oldest_ended()
  while redis.call('ZCARD', 'digits:ended') > MAX_ENDED do
    local id = redis.call('ZPOPMIN', 'digits:ended')[1]
    redis.call('DEL', key(id), events(id))
    redis.call('ZREM', 'digits:jobs', id)
    redis.call('ZREM', 'digits:webhooks', id)
    redis.call('ZREM', 'digits:sending', id)
  end
end

-- woken: will the caller send a wake-up?
local function enqueue(id, woken)
  set(id, 'state', 'queued', 'woken_at', woken and stamp or 0)
  redis.call('ZREM', 'digits:leases', id)
  redis.call('ZADD', 'digits:queued', get(id, 'created_at'), id)
  tell(id, 'queued', '{}')
end

local function finish(id, state)
  set(id, 'state', state, 'ended_at', stamp, 'eta_seconds', 0)
  redis.call('ZREM', 'digits:leases', id)
  redis.call('ZREM', 'digits:queued', id)
  if get(id, 'webhook_url') then redis.call('ZADD', 'digits:webhooks', now, id) end
  local why = get(id, 'error')
  tell(id, 'ended', cjson.encode(why and {state = state, error = why} or {state = state}))
  drop_samples(id, 1)
  redis.call('DEL', samples(id))
  redis.call('EXPIRE', key(id), KEPT)
  redis.call('EXPIRE', events(id), KEPT)
  redis.call('ZADD', 'digits:ended', now, id)
  total(state)
  forget_oldest_ended()
end

-- Returns a job to the queue, or cancels it if that was requested. A job that may be published already, or
-- whose finished epochs are to be kept, always returns to the queue: only a worker can do that.
local function release(id, woken)
  local requested, publishing, keep, finished = get(id, 'cancel_requested', 'publishing', 'keep', 'd_loss')
  if requested and not publishing and not (keep and finished) then finish(id, 'canceled') else enqueue(id, woken) end
end

-- The worker of a running job is gone. Only losses in a row, without a saved state that is further than all
-- before, fail the job: one that gets on does not, however often its hosts break down.
local function lost(id, woken)
  redis.call('HINCRBY', key(id), 'lost_leases', 1)
  total('lost_leases')
  local times = redis.call('HINCRBY', key(id), 'lost_in_a_row', 1)
  if times >= MAX_LOST then redis.call('HDEL', key(id), 'keep') end
  if times >= MAX_LOST and not get(id, 'cancel_requested') and not get(id, 'publishing') then
    set(id, 'error', 'worker lost: ' .. times .. ' attempts in a row ended without a word or a new state')
    finish(id, 'failed')
  else
    release(id, woken)
  end
end

local function holds(id, token)
  local state, its_token = get(id, 'state', 'token')
  return state == 'running' and its_token == token
end

local function hold(id)
  redis.call('ZADD', 'digits:leases', now + LEASE, id)
  local cancel_requested, keep = get(id, 'cancel_requested', 'keep')
  return cancel_requested and (keep and 'keep' or 'canceled') or 'held'
end

local change = {}

-- How many jobs of an owner are queued or running.
local function count_owned(owner)
  local count = 0
  for _, name in ipairs({'digits:queued', 'digits:leases'}) do
    for _, id in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      if get(id, 'owner') == owner then count = count + 1 end
    end
  end
  return count
end

-- Returns the fingerprint of the earlier request with this key, or '', and the record; 'full' if too many wait, 'owned'
-- if the owner has max_owned jobs already (0: no limit).
function change.create(id, idempotency_key, fingerprint, max_queued, owner, max_owned, ...)
  local name = 'digits:idempotency:' .. idempotency_key
  if idempotency_key ~= '' then
    local before = redis.call('HMGET', name, 'id', 'fingerprint')
    if before[1] and redis.call('EXISTS', key(before[1])) == 1 then
      return {before[2], redis.call('HGETALL', key(before[1]))}
    end
  end
  if redis.call('ZCARD', 'digits:queued') >= tonumber(max_queued) then return {'full', {}} end
  if tonumber(max_owned) > 0 and count_owned(owner) >= tonumber(max_owned) then return {'owned', {}} end
  if idempotency_key ~= '' then
    redis.call('HSET', name, 'id', id, 'fingerprint', fingerprint)
    redis.call('EXPIRE', name, IDEMPOTENCY)
  end
  set(id, 'created_at', stamp, 'owner', owner, ...)
  redis.call('ZADD', 'digits:jobs', now, id)
  enqueue(id, true)
  total('accepted')
  return {'', redis.call('HGETALL', key(id))}
end

-- Returns the record, or nothing if the job is not queued.
function change.claim(id, holder, token)
  if get(id, 'state') ~= 'queued' then return false end
  redis.call('ZREM', 'digits:queued', id)
  local attempt = redis.call('HINCRBY', key(id), 'attempt', 1)
  set(id, 'state', 'running', 'started_at', stamp, 'holder', holder, 'token', token, 'told', 0)
  hold(id)
  tell(id, 'started', cjson.encode({attempt = attempt}))
  total('attempts')
  return redis.call('HGETALL', key(id))
end

-- After count: that many names and values of fields, then number, kind and data of each event. An
-- event is skipped if its number is not above the last recorded one. Returns a Standing.
function change.report(id, token, count, ...)
  if not holds(id, token) then return 'lost' end
  local rest = {...}
  local furthest = tonumber(get(id, 'saved_step') or 0)
  local resumes = tonumber(get(id, 'resumes') or 0)
  if tonumber(count) > 0 then set(id, unpack(rest, 1, count)) end
  if tonumber(get(id, 'saved_step') or 0) > furthest then
    set(id, 'lost_in_a_row', 0)
  elseif furthest > 0 then
    set(id, 'saved_step', furthest)
  end
  local more = tonumber(get(id, 'resumes') or 0) - resumes
  if more > 0 then total('resumes', more) end
  local told = tonumber(get(id, 'told'))
  for i = count + 1, #rest, 3 do
    if tonumber(rest[i]) > told then
      tell(id, rest[i + 1], rest[i + 2])
      told = tonumber(rest[i])
    end
  end
  set(id, 'told', told)
  return hold(id)
end

-- Returns a Standing. From now on only a worker can end the job, because its version may exist.
function change.start_publishing(id, token)
  if not holds(id, token) then return 'lost' end
  local standing = hold(id)
  if standing ~= 'canceled' then set(id, 'publishing', 1) end
  return standing
end

-- Returns 1 if the job was held.
function change.finish(id, token, state, ...)
  if not holds(id, token) then return 0 end
  if select('#', ...) > 0 then set(id, ...) end
  local version = get(id, 'version')
  if version then tell(id, 'published', cjson.encode({version = tonumber(version)})) end
  finish(id, state)
  return 1
end

-- Returns 1 if the job was held. The attempt does not count.
function change.give_back(id, token)
  if not holds(id, token) then return 0 end
  redis.call('HINCRBY', key(id), 'attempt', -1)
  total('given_back')
  release(id, true)
  return 1
end

-- Returns 1 if that holder had the job.
function change.lose(id, holder)
  local state, its_holder = get(id, 'state', 'holder')
  if state ~= 'running' or its_holder ~= holder then return 0 end
  lost(id, true)
  return 1
end

-- Returns the record, or 'others' if the job has another owner ('': anyone may). keep: 1 to publish the finished epochs.
-- A job that has none in the queue ends at once. To keep them cannot be asked for after a cancellation without it.
function change.cancel(id, keep, owner)
  local state, publishing, requested, kept, finished = get(id, 'state', 'publishing', 'cancel_requested', 'keep', 'd_loss')
  if state and owner ~= '' and get(id, 'owner') ~= owner then return 'others' end
  keep = keep == '1' and (kept or not requested)
  if state == 'queued' and not publishing and not (keep and finished) then
    finish(id, 'canceled')
  elseif state == 'queued' or state == 'running' then
    set(id, 'cancel_requested', 1)
    if keep then set(id, 'keep', 1) else redis.call('HDEL', key(id), 'keep') end
  end
  return redis.call('HGETALL', key(id))
end

-- Puts a job of a backup back, with count names and values of its record, then id, kind and data of each event.
-- Returns 'restored', 'there' if there is a job with this id, or 'expired'. One that ran is queued again: it was no
-- fault of its worker, so nothing is counted.
function change.restore(id, count, ...)
  if redis.call('EXISTS', key(id)) == 1 then return 'there' end
  local rest = {...}
  set(id, unpack(rest, 1, count))
  local state, created, ended = get(id, 'state', 'created_at', 'ended_at')
  local over = state ~= 'queued' and state ~= 'running'
  if over and ended + KEPT <= now then
    redis.call('DEL', key(id))
    return 'expired'
  end
  redis.call('DEL', events(id), samples(id))
  for i = count + 1, #rest, 3 do
    redis.call('XADD', events(id), rest[i], 'kind', rest[i + 1], 'data', rest[i + 2])
    if rest[i + 1] == 'sample' and not over then redis.call('LPUSH', samples(id), rest[i]) end
  end
  redis.call('ZADD', 'digits:jobs', created, id)
  if over then
    redis.call('EXPIREAT', key(id), math.ceil(ended + KEPT))
    redis.call('EXPIREAT', events(id), math.ceil(ended + KEPT))
    redis.call('ZADD', 'digits:ended', ended, id)
    if get(id, 'webhook_url') then redis.call('ZADD', 'digits:webhooks', now, id) end
    forget_oldest_ended()
  elseif state == 'running' then
    release(id, false)
  else
    set(id, 'woken_at', 0)
    redis.call('ZADD', 'digits:queued', created, id)
  end
  return 'restored'
end

-- Puts an idempotency key of a backup back, unless it is there or has expired.
function change.restore_key(idempotency_key, id, fingerprint, expires_at)
  local name = 'digits:idempotency:' .. idempotency_key
  if redis.call('EXISTS', name) == 1 or tonumber(expires_at) <= now then return end
  redis.call('HSET', name, 'id', id, 'fingerprint', fingerprint)
  redis.call('EXPIREAT', name, math.ceil(expires_at))
end

-- A write like those that a new job needs.
function change.probe()
  redis.call('SET', 'digits:probe', stamp, 'EX', 60)
end

-- A worker is there, or will take no more jobs.
function change.work(name) redis.call('ZADD', 'digits:workers', now, name) end
function change.leave(name) redis.call('ZREM', 'digits:workers', name) end

-- Returns the ids of jobs that need a wake-up. The first caller keeps the others out until the next
-- pass is due, unless at_once is 1. If there was no pass for most of a lease, Redis or all callers were
-- away. Then no lease counts as lost for QUIET seconds, so that the workers can report again first.
-- Leases and places in the queue are removed if their job has no record any more.
function change.reconcile(waiting, at_once)
  redis.call('ZREMRANGEBYSCORE', 'digits:workers', '-inf', now - ALIVE)
  local others = not redis.call('SET', 'digits:reconciling', 1, 'NX', 'PX', RECONCILE * 1000 - 500)
  if others and at_once ~= '1' then return {} end
  local last = redis.call('GET', 'digits:reconciled') or 0
  redis.call('SET', 'digits:reconciled', stamp)
  if now - last > LEASE * 5 / 6 then redis.call('SET', 'digits:quiet', 1, 'EX', QUIET) end
  if redis.call('EXISTS', 'digits:quiet') == 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'digits:leases', '-inf', now)) do
      if get(id, 'state') == 'running' then lost(id, false) else redis.call('ZREM', 'digits:leases', id) end
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'digits:jobs', '-inf', now - KEPT, 'LIMIT', 0, 1000)) do
    if redis.call('EXISTS', key(id)) == 0 then redis.call('ZREM', 'digits:jobs', id) end
  end
  local asleep = {}
  local queued = redis.call('ZRANGE', 'digits:queued', 0, -1)
  local missing = #queued - waiting
  for _, id in ipairs(queued) do
    if get(id, 'state') ~= 'queued' then
      redis.call('ZREM', 'digits:queued', id)
    elseif #asleep < missing and now - get(id, 'woken_at') > WAKE then
      set(id, 'woken_at', stamp)
      asleep[#asleep + 1] = id
    end
  end
  return asleep
end

-- Returns the host and port to which the webhook of a job goes; nil if none waits, or its record is damaged.
local function receiver(id)
  local url, settled, tries = get(id, 'webhook_url', 'webhook_state', 'webhook_tries')
  if not url or settled or not string.match(tries or '0', '^%d+$') then return nil end
  return string.lower(string.match(url, '//([^/]*)') or url)
end

-- Returns id and record of up to count jobs whose webhook is due, and counts a try of each. One that was taken
-- and not settled within SENDING seconds is due again. Ids without a webhook that waits are removed.
function change.take_webhooks(count)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'digits:sending', '-inf', now)) do
    redis.call('ZREM', 'digits:sending', id)
    redis.call('ZADD', 'digits:webhooks', now, id)
  end
  local busy, taken = {}, {}  -- receiver → how many are sent to it; what is returned
  local function count_busy(its) busy[its] = (busy[its] or 0) + 1 end
  for _, id in ipairs(redis.call('ZRANGE', 'digits:sending', 0, -1)) do
    local its = receiver(id)
    if its then count_busy(its) end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'digits:webhooks', '-inf', now)) do
    if #taken == tonumber(count) then break end
    local its = receiver(id)
    if not its then
      redis.call('ZREM', 'digits:webhooks', id)
    elseif (busy[its] or 0) < MAX_PER_RECEIVER then
      redis.call('ZREM', 'digits:webhooks', id)
      redis.call('ZADD', 'digits:sending', now + SENDING, id)
      redis.call('HINCRBY', key(id), 'webhook_tries', 1)
      count_busy(its)
      taken[#taken + 1] = {id, redis.call('HGETALL', key(id))}
    end
  end
  return taken
end

-- A try of a webhook has ended; why: of one that failed. If it still waits, it is due again after delay seconds.
-- A late word of an earlier try counts only if it is delivered. The secret goes when it is not needed any more.
function change.settle_webhook(id, try, state, delay, why)
  local tries = receiver(id) and get(id, 'webhook_tries')
  if not tries or (tries ~= try and state ~= 'delivered') then return end
  redis.call('ZREM', 'digits:sending', id)
  if why ~= '' then set(id, 'webhook_error', why) end
  if state == 'waiting' then
    redis.call('ZADD', 'digits:webhooks', now + delay, id)
  else
    redis.call('ZREM', 'digits:webhooks', id)
    set(id, 'webhook_state', state)
    redis.call('HDEL', key(id), 'webhook_secret')
  end
end

local name = table.remove(ARGV, 1)
local needs_memory = {create = true, restore = true, restore_key = true, probe = true}
if not needs_memory[name] then go_on_without_memory() end
return change[name](unpack(ARGV))
