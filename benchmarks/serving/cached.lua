-- For wrk: GET requests for the digits of 1,000 seeds in turn, or without a seed.
-- Environment: SEEDED (1 or 0). Prints the number of answers, of those that are not 200, and the seconds.

local seeded = os.getenv("SEEDED") == "1"
local number = 0

function request()
  number = (number + 1) % 1000
  return wrk.format("GET", seeded and wrk.path .. "&seed=" .. number or wrk.path)
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format("FIGURES %d %d %.6f %.3f", summary.requests,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
    latency:percentile(99) / 1e3))
end
