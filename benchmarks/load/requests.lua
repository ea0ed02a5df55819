-- The requests of one load, in turn, and a line of JSON about how they went.
--
--   wrk ... -- FIRST_SEED METHOD TARGET CONTENT_TYPE BODY [METHOD TARGET CONTENT_TYPE BODY ...]
--
-- In TARGET, and in a BODY that is JSON, {seed} is another number in each request and {k} one of 500 pseudo-inputs.
-- A BODY that begins with @ is read from that file; - stands for none.

local requests, count = {}, 0

function init(args)
   count = tonumber(args[1])
   for i = 2, #args, 4 do
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
