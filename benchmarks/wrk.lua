-- Sends the requests of the file $REQUESTS in turn (for each its length on a line, then its bytes)
-- and prints what came of them as one line of JSON.

local requests = {}
local file = assert(io.open(os.getenv("REQUESTS"), "rb"))
for line in file:lines() do
    requests[#requests + 1] = file:read(tonumber(line))
end

if #requests == 1 then
    -- Without a function of ours for each request, wrk itself takes less of the processor.
    wrk.format = function() return requests[1] end
else
    local at = 0
    request = function()
        at = at % #requests + 1
        return requests[at]
    end
end

done = function(summary, latency)
    local e = summary.errors
    io.write("\n", string.format(
        '{"answers": %d, "took_us": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, "failed": %d}',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency.max, e.connect + e.read + e.write + e.status + e.timeout
    ), "\n")
end
