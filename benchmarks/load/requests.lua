-- The requests of one load, in turn, and a line of JSON about how they went.
--
--   wrk ... -- FIRST_SEED RATE METHOD TARGET CONTENT_TYPE BODY [METHOD TARGET CONTENT_TYPE BODY ...]
--
-- RATE is the number of requests per second; 0 sends each request as soon as the connection has its last answer.
-- In TARGET, and in a BODY that is JSON, {seed} is another number in each request and {k} one of 500 pseudo-inputs.
-- A BODY that begins with @ is read from that file; - stands for none.

local requests, count = {}, 0

-- Sends requests on a schedule; one that is late does not delay the next ones.
local function pace(rate)
   local ffi = require("ffi")
   ffi.cdef("typedef struct { long seconds, microseconds; } moment; int gettimeofday(moment *, void *);")
   local moment, sent, start = ffi.new("moment"), 0, nil
   function delay()  -- milliseconds
      ffi.C.gettimeofday(moment, nil)
      local now = tonumber(moment.seconds) + tonumber(moment.microseconds) / 1e6
      start, sent = start or now, sent + 1
      return math.max(0, math.floor(1e3 * (start + sent / rate - now)))
   end
end

function init(args)
   count = tonumber(args[1])
   if tonumber(args[2]) > 0 then
      pace(tonumber(args[2]))
   end
   for i = 3, #args, 4 do
      local body = args[i + 3]
      if body == "-" then
         body = nil
      elseif body:sub(1, 1) == "@" then
         body = assert(io.open(body:sub(2), "rb")):read("*a")
      end
      local headers = body and {["Content-Type"] = args[i + 2]} or {}
      requests[#requests + 1] = {method = args[i], target = args[i + 1], headers = headers, body = body}
   end
end

local function filled(text)
   return (text:gsub("{seed}", string.format("%d", count)):gsub("{k}", count * 7 % 500))
end

function request()
   count = count + 1
   local one = requests[count % #requests + 1]
   local json = one.headers["Content-Type"] == "application/json"
   return wrk.format(one.method, filled(one.target), one.headers, json and filled(one.body) or one.body)
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "failures": %d, "refusals": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
      errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
