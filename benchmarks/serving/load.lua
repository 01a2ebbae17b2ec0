-- For wrk: POST requests for pictures of SIDE × SIDE pixels. Every answer must be a PNG of that size.
-- Environment: SIDE, BODY (JSON; empty: none). Prints one line of figures.

local side = tonumber(os.getenv("SIDE"))
local body = os.getenv("BODY")
local threads = {}

wrk.method = "POST"
if body ~= "" then
  wrk.body = body
  wrk.headers["Content-Type"] = "application/json"
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  good, busy, bad = 0, 0, 0
end

local function number(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

function response(status, headers, answer)
  if status == 429 then
    busy = busy + 1
  elseif status == 200 and answer:sub(1, 8) == "\137PNG\r\n\26\n" and answer:sub(-8, -5) == "IEND"
    and number(answer, 17) == side and number(answer, 21) == side then
    good = good + 1
  else
    bad = bad + 1
  end
end

function done(summary, latency, requests)
  local totals = { good = 0, busy = 0, bad = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(totals) do
      totals[name] = totals[name] + thread:get(name)
    end
  end
  local errors = summary.errors
  print(string.format("FIGURES %d %d %d %d %.6f %.3f %.3f", totals.good, totals.busy, totals.bad,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
